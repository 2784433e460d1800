//! The one MQTT client of agents and the fleet: a disposable event loop with rules.
