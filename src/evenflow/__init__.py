"""Event-driven applications: typed events, plain async handlers, one promise on every engine."""

from evenflow.app import App
from evenflow.clock import DAY, HOUR, MINUTE, SECOND
from evenflow.codec import Codec
from evenflow.codecs.json import JsonCodec
from evenflow.codecs.msgpack import MsgpackCodec
from evenflow.envelope import Envelope
from evenflow.errors import EvenflowError
from evenflow.event import Event, event, replace
from evenflow.handler import Delivery
from evenflow.policy import Policy
from evenflow.service import Service
from evenflow.settings import Settings
from evenflow.topic import Topic
from evenflow.unit_of_work import Transaction

__version__ = "0.1.0"

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "SECOND",
    "App",
    "Codec",
    "Delivery",
    "Envelope",
    "EvenflowError",
    "Event",
    "JsonCodec",
    "MsgpackCodec",
    "Policy",
    "Service",
    "Settings",
    "Topic",
    "Transaction",
    "__version__",
    "event",
    "replace",
]
