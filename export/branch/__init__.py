# SPDX-License-Identifier: Apache-2.0
"""The run-time branch of BNA.

branch       the two passes and the flag; the guard file
second_pass  the graph once more, with realigned channels
block        nodes and constants that are added as a whole
"""
