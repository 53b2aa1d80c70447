"""A name that the front door does not have is a mistake, though its names come late."""

from __future__ import annotations

import evenflow
from evenflow import Ap  # expect-error
from evenflow import App, Topic

evenflow.Servce  # expect-error
evenflow.Topic(partitions=1)  # expect-error
Topic(1)  # expect-error
App("shop")  # expect-error
