"""Logistic regression by scikit-learn, returned as the dense layer it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

NEVER = -1e4  # logit of a class without training samples


def logistic_head(features: torch.Tensor, labels: torch.Tensor, n_classes: int) -> nn.Sequential:
    """Fit a logistic regression to standardised features and return it as a linear head.

    The standardisation is folded into weights and bias; L2 penalty and solver are scikit-learn's
    defaults. Nothing is drawn at random.

    Args:
        features: `(n, n_features)`.
        labels: int64 `(n,)`.
        n_classes: number of logits.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    inputs = scaler.fit_transform(features.double().numpy())
    model = LogisticRegression(max_iter=2000).fit(inputs, labels.numpy())
    slopes, shifts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one logit, that of the second class against the first
        slopes, shifts = np.vstack([0 * slopes, slopes]), np.array([0.0, shifts[0]])
    means, scales = np.asarray(scaler.mean_), np.asarray(scaler.scale_)
    slopes = slopes / scales
    head = nn.Linear(features.shape[1], n_classes)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(NEVER)
        head.weight[model.classes_] = torch.from_numpy(slopes).float()
        head.bias[model.classes_] = torch.from_numpy(shifts - slopes @ means).float()
    return nn.Sequential(head)
