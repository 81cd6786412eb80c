# SPDX-License-Identifier: Apache-2.0
"""NFT: masks per channel. Options, the fit, the masks, MixUp."""
