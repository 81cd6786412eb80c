# SPDX-License-Identifier: Apache-2.0
"""Pictures and labels: where they come from, how they become the model's input."""
