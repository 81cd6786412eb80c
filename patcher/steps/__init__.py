# SPDX-License-Identifier: Apache-2.0
"""What several commands do.

prepare        read the clean images, measure the model on them
training_data  which images a method is fitted and measured on
fit            from a model and images to a patch
prove          parity of the hardened model
before_after   the original against the hardened model
flags          rates of the run-time flag
"""
