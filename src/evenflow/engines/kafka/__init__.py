"""Apache Kafka as an engine."""
