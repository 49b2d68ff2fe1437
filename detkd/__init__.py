"""detkd: detection knowledge distillation for a lab's microscope images."""

__version__ = "0.1.0"
