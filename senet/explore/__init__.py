"""A local web page for exploring the gates of a network's SE blocks."""

from senet.explore.looking import Held, Look, Maps, Means, look
from senet.explore.network import Subject, open_subject
from senet.explore.server import listen, serve

__all__ = ["Held", "Look", "Maps", "Means", "Subject", "listen", "look", "open_subject", "serve"]
