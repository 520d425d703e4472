"""The pages of TMDE.

Each page's domain has a package, called a room: benchmark, debate, finetune, plugins, traces, versions. `kit` holds
what several rooms share. A room imports the kit and no other room, with one exception: the page of a trace imports the
debate view. `pages` lists the pages. `compose` combines the pages and the API into one app.
"""
