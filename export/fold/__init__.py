# SPDX-License-Identifier: Apache-2.0
"""Bounds folded into weights and scalar clips: the plan, its factors and sites, the edit."""
