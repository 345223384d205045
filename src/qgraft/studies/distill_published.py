"""Published numbers of Hasan and Mahdy (arXiv 2311.13810), read from the authors' notebooks.

Best test accuracies in per cent of single runs, version 1, on 150 test images per class; and error
rates of version 2 as read off its chart, uncertain by 1.
"""

from __future__ import annotations

# (data set, classes, qubits) -> accuracy by teacher. Two entries are not what they seem: Fashion
# 0-7 with 3 qubits and LeNet multiplied the teacher's part by 0, with AlexNet by 6 instead of 8.
PUBLISHED_STUDENTS: dict[tuple[str, str, int], dict[str, float]] = {
    ("mnist", "0-5", 3): {"none": 96.56, "lenet": 97.89, "alexnet": 97.44, "ensemble": 97.33},
    ("mnist", "0-7", 3): {"none": 93.75, "lenet": 93.75, "alexnet": 94.92, "ensemble": 95.42},
    ("mnist", "0-7", 4): {"none": 93.83, "lenet": 94.33, "alexnet": 94.17, "ensemble": 94.00},
    ("fashion-mnist", "0-5", 3): {
        "none": 65.00, "lenet": 77.00, "alexnet": 83.44, "ensemble": 67.89,
    },
    ("fashion-mnist", "0-7", 3): {
        "none": 68.00, "lenet": 68.67, "alexnet": 73.42, "ensemble": 74.42,
    },
    ("fashion-mnist", "0-7", 4): {
        "none": 74.25, "lenet": 75.83, "alexnet": 75.42, "ensemble": 72.50,
    },
}  # fmt: skip
PUBLISHED_TEACHERS: dict[tuple[str, str], dict[str, float]] = {
    ("mnist", "0-5"): {"lenet": 99.50, "alexnet": 99.72, "ensemble": 99.73},
    ("mnist", "0-7"): {"lenet": 99.16, "alexnet": 99.51, "ensemble": 99.58},
    ("fashion-mnist", "0-5"): {"lenet": 91.57, "alexnet": 94.90, "ensemble": 95.67},
    ("fashion-mnist", "0-7"): {"lenet": 85.97, "alexnet": 91.64, "ensemble": 91.79},
}
PUBLISHED_SHOTS = {("0-5", 3): 5000, ("0-7", 3): 3000, ("0-7", 4): 2000}
PUBLISHED_GAINS = {"mnist": 0.80, "fashion-mnist": 5.40}  # of the abstract; one loss counted as 0

# Version 2, all classes: (data set, reduction, encoding) -> error with 4 and with 8 qubits.
PUBLISHED_ERRORS: dict[tuple[str, str, str], tuple[float, float]] = {
    ("mnist", "fc", "amplitude"): (22.5, 9.8),
    ("mnist", "fc", "multi-axis"): (25.1, 14.5),
    ("mnist", "fc", "angle"): (37.8, 21.0),
    ("mnist", "average", "amplitude"): (54.1, 47.6),
    ("mnist", "pca", "amplitude"): (68.6, 57.4),
    ("mnist", "crop", "amplitude"): (80.6, 74.8),
    ("mnist", "max", "amplitude"): (85.0, 80.6),
    ("fashion-mnist", "fc", "amplitude"): (22.9, 16.3),
    ("fashion-mnist", "fc", "multi-axis"): (24.0, 18.9),
    ("fashion-mnist", "fc", "angle"): (31.6, 28.3),
    ("fashion-mnist", "average", "amplitude"): (51.6, 50.1),
    ("fashion-mnist", "pca", "amplitude"): (71.9, 67.9),
    ("fashion-mnist", "crop", "amplitude"): (78.8, 81.3),
    ("fashion-mnist", "max", "amplitude"): (82.8, 81.7),
}


def published_student(
    dataset: str, classes: str, n_qubits: int, student: str, teacher: str
) -> float | None:
    """Return the published accuracy of a student as a fraction, None where there is none."""
    if student == "v1":
        value = PUBLISHED_STUDENTS.get((dataset, classes, n_qubits), {}).get(teacher)
        return None if value is None else round(value / 100, 6)
    if classes == "all" and teacher != "none" and n_qubits in (4, 8):
        reduction, _, encoding = student.removeprefix("v2-").partition("-")
        errors = PUBLISHED_ERRORS.get((dataset, reduction, encoding))
        if errors and student.startswith("v2-"):
            return round(1 - errors[n_qubits == 8] / 100, 6)
    return None


def published_teacher(dataset: str, classes: str, teacher: str) -> float | None:
    """Return the published best test accuracy of a teacher as a fraction."""
    value = PUBLISHED_TEACHERS.get((dataset, classes), {}).get(teacher)
    return None if value is None else round(value / 100, 6)
