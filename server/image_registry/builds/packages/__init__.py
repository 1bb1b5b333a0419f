"""System packages: the one step of a build that runs other people's code, in a sandbox of its own.

wanted.py       what is to be installed, and what the step may use
managers.py     apt and yum: which base takes which, the commands, what their words mean
engine.py       whether this machine can do it, and what is lacking
install.py      the stage of a build: the layer out of the cache, or made
sandbox.py      namespaces, limits and network around the container engine; it reads what goes on inside
init.py         the first process inside
network.py, control_group.py
                the way out, and the bounds
tidy.py         a container's changes as a layer without traces of how it was made
"""
