# SPDX-License-Identifier: Apache-2.0
"""One graph edit a file: what each correction of a patch becomes in the graph."""
