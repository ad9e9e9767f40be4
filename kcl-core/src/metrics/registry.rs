use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};

/// Registers what one worker measures.
pub(super) struct Registry<'a> {
    pub(super) recorder: &'a dyn Recorder,
    pub(super) worker: String,
}

const TARGET: &str = "kcl_core::metrics";
const METADATA: Metadata<'static> = Metadata::new(TARGET, Level::INFO, Some(TARGET));

impl Registry<'_> {
    fn key(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        let worker = Label::new("worker", self.worker.clone());
        let labels = labels
            .iter()
            .map(|(name, value)| Label::from_static_parts(name, value));
        Key::from_parts(name, labels.chain([worker]).collect::<Vec<_>>())
    }

    pub(super) fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        self.recorder
            .describe_counter(KeyName::from_const_str(name), Some(Unit::Count), "".into());
        self.recorder.register_counter(&self.key(name, labels), &METADATA)
    }

    pub(super) fn gauge(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        self.recorder.register_gauge(&self.key(name, labels), &METADATA)
    }

    pub(super) fn histogram(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Histogram {
        self.recorder
            .describe_histogram(KeyName::from_const_str(name), Some(Unit::Seconds), "".into());
        self.recorder
            .register_histogram(&self.key(name, labels), &METADATA)
    }
}
