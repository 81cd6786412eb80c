# SPDX-License-Identifier: Apache-2.0
"""Pictures and labels: where they come from, how they become the model's input.

clean_set      clean labelled images and their split
image_sources  folder, .npz, calibration reader
layouts        parquet, metadata.csv, WebDataset, IDX: a file each
preprocess     from pictures to the tensor the model expects
"""
