"""`python -m detkd` is the console script `detkd`."""

from detkd.cli.app import main

raise SystemExit(main())
