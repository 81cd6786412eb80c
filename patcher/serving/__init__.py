# SPDX-License-Identifier: Apache-2.0
"""Folders that model servers load, written from a hardened file.

interface  inputs and outputs of a model as servers name them
triton     a model repository of Triton Inference Server
kserve     the same with an InferenceService and a request of the Open Inference Protocol
"""
