"""Prepares the data of a mixture: from sources in their own formats to tokenised shards.

Read (`reading`) -> classify chat (`chat_filter`) -> verify (`verifying`) -> remove exact and near
duplicates (`duplicates`) and the evaluation's questions (`contamination`) -> tokenise, limit the
length, shuffle, write shards (`shard_writing`) -> index and data card (`card`). `pipeline` runs
these as steps of datatrove, which needs the extra `data`.

Rows are read once, into Parquet parts. A step writes only which rows it removes and why
(`rows.Removal`), and later steps skip these, so no step copies the data.
"""
