"""The files that a run writes into its folder, and how they are read back.

`history`, `checkpoint`, `saved_config` and `summary` each know one of the files; `folder`, `resume`
and `status` read several of them together. `live_page`, `report_page` and `series_page`, with
`live_sentences` and `run_charts`, are the pages that show them to people. May import `learning`,
`data`, `config`, `terminal` and what lies below them. Begin with `folder`, then `history`.
"""
