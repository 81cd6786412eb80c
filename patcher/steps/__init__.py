# SPDX-License-Identifier: Apache-2.0
"""What several commands do: prepare, fit, prove, measure before and after."""
