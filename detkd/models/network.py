"""What can be trained, distilled, averaged and kept: a detector or a classifier."""

from detkd.models.classifier import Classifier
from detkd.models.detector import Detector

Network = Detector | Classifier
