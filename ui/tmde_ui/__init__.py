"""The pages of TMDE.

Each page's domain has a room: benchmark, debate, finetune, plugins, traces, versions. `kit` has what several of them share.
A room imports the kit and nothing of the other rooms, except that a trace shows its debate. `pages` lists the pages, and
`compose` puts them and the API into one app.
"""
