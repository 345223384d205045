"""Every error qgraft raises on purpose.

QgraftError
├── ConfigError        a setting or option is wrong
├── DataError          a data set, manifest or folder cannot be used
│   ├── ImageError         one image file
│   └── AnnotationError    one annotation file
├── ModelError         a network cannot be built, cut or loaded
│   ├── CircuitError       a circuit or its numbers do not fit
│   └── WeightsError       a weights or checkpoint file
└── RunError           a run directory cannot be used

A message says what was wrong, the value given, what is allowed, and what to do.
"""


class QgraftError(Exception):
    """Base of every error a user can cause and mend."""


class ConfigError(QgraftError):
    """A setting or option is wrong."""


class DataError(QgraftError):
    """A data set, manifest or folder cannot be used."""


class ImageError(DataError):
    """An image file cannot be used."""


class AnnotationError(DataError):
    """An annotation file cannot be used."""


class ModelError(QgraftError):
    """A network cannot be built, cut or loaded."""


class CircuitError(ModelError):
    """A circuit is not well formed, or the numbers given do not fit it."""


class WeightsError(ModelError):
    """A weights or checkpoint file is missing, damaged or of another shape."""


class RunError(QgraftError):
    """A run directory cannot be used."""
