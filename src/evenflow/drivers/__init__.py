"""What an engine and a store of one kind share: connections, types, settings that are examined."""
