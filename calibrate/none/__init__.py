# SPDX-License-Identifier: Apache-2.0
"""NONE: repair with the suspect training set (Wang et al., NeurIPS 2022).

options           options, without torch
method            the method, from a training set to a patch
rounds            identify, start anew, fine-tune; the state between epochs
reinitialization  new weights for compromised neurons
checkpoint        the state as a file
"""
