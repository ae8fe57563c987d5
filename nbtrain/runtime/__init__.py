"""The half of nbtrain that travels: it is zipped and sent along with every run.

Nothing in here imports the rest of nbtrain, so any interpreter that has TensorFlow can train,
and the notebook's nbtrain never disagrees with that of the image. The head, the agent and the
zygote need the standard library alone; trainers also use what TensorFlow's own wheel installs.
"""

__version__ = "0.1.0"
