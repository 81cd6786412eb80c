# SPDX-License-Identifier: Apache-2.0
"""Operators that most classifiers are made of: the interpreter runs them, so that nobody has to load it to know."""

_NAMES = """
Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose DequantizeLinear Div
Dropout Erf Exp Expand Flatten Gather Gelu Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid
HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mul Neg
PRelu Pad Pow QuantizeLinear ReduceMean ReduceSum Relu Reshape Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub
Tanh Transpose Unsqueeze Where
"""
COMMON_OPERATORS = frozenset(_NAMES.split())
