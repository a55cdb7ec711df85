//! The metrics of the message trigger, registered once per consumer.

use faas_model::FunctionName;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Tells the exporter what each metric means.
pub(super) fn describe() {
    describe_counter!("faas_amqp_messages_total", "Messages settled, by function and outcome");
    describe_counter!("faas_amqp_redeliveries_total", "Messages the broker delivered again, by function");
    describe_counter!("faas_amqp_settle_failures_total", "Settlements the broker did not take, by function");
    describe_gauge!("faas_amqp_in_flight_messages", "Messages delivered and not yet settled, by function");
    describe_gauge!("faas_amqp_consumers", "Queues that are consumed now, by function");
    describe_gauge!("faas_amqp_connected", "1 while the broker's connection is open, else 0");
    describe_gauge!("faas_amqp_unknown_brokers", "Triggers that name a broker the configuration lacks");
}

/// The handles of one consumer.
#[derive(Clone)]
pub(super) struct Meters {
    pub(super) acked: Counter,
    pub(super) retried: Counter,
    pub(super) dead: Counter,
    pub(super) malformed: Counter,
    pub(super) held: Counter,
    pub(super) returned: Counter,
    pub(super) redelivered: Counter,
    pub(super) failures: Counter,
    pub(super) panics: Counter,
    pub(super) in_flight: Gauge,
    pub(super) consuming: Gauge,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

impl Meters {
    pub(super) fn of(function: &FunctionName) -> Self {
        let name = function.to_string();
        let settled = |outcome| counter!("faas_amqp_messages_total", "function" => name.clone(), "outcome" => outcome);
        Self {
            acked: settled("acked"),
            retried: settled("retried"),
            dead: settled("dead_lettered"),
            malformed: settled("malformed"),
            held: settled("held"),
            returned: settled("returned"),
            redelivered: counter!("faas_amqp_redeliveries_total", "function" => name.clone()),
            failures: counter!("faas_amqp_settle_failures_total", "function" => name.clone()),
            panics: counter!("faas_panics_total"),
            in_flight: gauge!("faas_amqp_in_flight_messages", "function" => name.clone()),
            consuming: gauge!("faas_amqp_consumers", "function" => name.clone()),
        }
    }
}

/// Adds one to a gauge for as long as it lives.
pub(super) struct Held(Gauge);

impl Held {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
