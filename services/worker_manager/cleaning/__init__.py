"""Cleaning a node of what nothing needs any more.

`seen` says what there is, `judging` decides without asking anybody, `survey` looks, `removing` removes, and
`duty` puts them together: by the clock, on command, and when a disk fills up.
"""
