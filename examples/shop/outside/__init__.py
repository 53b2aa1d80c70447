"""The world outside of the shop: processes that know nothing of Evenflow."""
