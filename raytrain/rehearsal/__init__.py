"""Rehearsal: one image of each bucket goes through every phase of a config before the long work,
so that a mistake late in the chain is told in the first minute.

It is the same config with other folders, few steps and few images (`settings`), run by the same
functions as the real run (`run`), in `<output>/rehearsal`, which is removed afterwards. The folder
is in the output so that its disk is the one that is written to. What can be known without running
anything is in `raytrain.train.guards.beforehand`, which is asked first.
"""
