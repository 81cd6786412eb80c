# SPDX-License-Identifier: Apache-2.0
"""Defences that the field uses, written from their papers over this project's interpreter, for comparison only.

    weights             what they train: the weights of an ONNX graph
    fine_tuning         plain fine-tuning; FT-SAM (Zhu et al., ICCV 2023)
    anp                 ANP: adversarial neuron pruning (Wu and Wang, NeurIPS 2021)
    i_bau               I-BAU: implicit hypergradients (Zeng et al., ICLR 2022)
    unlearning          Neural Cleanse with unlearning (Wang et al., S&P 2019)
    __main__            the table, beside this project's methods

Each takes a `Setting` and trains its weights in place. Published settings, the same clean images for all; where a
paper leaves a choice to data that a defender does not have, the file says what stands in its place.
"""
