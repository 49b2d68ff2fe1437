"""From detections to cells per litre: counts with intervals, sizes, biovolumes, one page.

It runs as `detkd count`, and beside an exported model as counting.pyz, where nothing else of detkd
is: it needs Python 3.10 and numpy, and for pictures Pillow or OpenCV, and imports nothing of detkd
outside of this package.

A run over images has written what is read (`run`): frames.csv, results.csv, run.json. `command`
reads the options (`options`, `settings`), passes over both tables (`counter`) while `samples` says
of which sample a frame is, and keeps sums by sample and class (`tally`), a few cells to be shown
(`showcase`) and some 60 bytes of each frame (`frame_index`). `water`, `bodies` and `intervals` make
concentrations, volumes and limits of the sums, which `document` puts together for all that is
written: counts.csv (frame by class), samples.csv (sample by class), counts.json, and summary.html
(`page`, `spectrum`, `pictures`, `check_first`).
"""
