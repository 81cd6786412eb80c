# SPDX-License-Identifier: Apache-2.0
"""Small backdoored classifiers that the project trains itself, and what goes with them."""
