use std::path::PathBuf;
use std::time::Duration;

use agentcg_core::{
    EventFilter, EventMode, MemcgConfig, SchedulerConfig, SchedulerScope, SessionConfig,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::events::EventStream;
use crate::handle::Handle;
use crate::memory::MemoryProtection;
use crate::scheduler::Scheduler;
use crate::session::Session;
use crate::{error, options};

/// The owner of one cgroup subtree.
#[pyclass(frozen, module = "agentcg._native")]
pub(crate) struct Runtime(Handle<agentcg_core::Runtime>);

#[pymethods]
impl Runtime {
    #[new]
    fn new(
        py: Python<'_>,
        root: Option<PathBuf>,
        shared: bool,
        keep_orphans: bool,
        capacity: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let mut builder = agentcg_core::Runtime::builder()
            .shared(shared)
            .keep_orphans(keep_orphans)
            .capacity(options::capacity(capacity)?);
        if let Some(root) = root {
            builder = builder.root(root);
        }
        let runtime = py.detach(|| builder.build()).map_err(|e| error::from_core(py, &e))?;
        Ok(Self(Handle::new("runtime", runtime)))
    }

    #[getter]
    fn root(&self, py: Python<'_>) -> PyResult<PathBuf> {
        self.0.with(py, |r| Ok(r.root().path().to_path_buf()))
    }

    /// `limits` are those of the session, `call` those of each of its calls, `capacity` what they may
    /// need together.
    fn session(
        &self,
        py: Python<'_>,
        name: &str,
        priority: &str,
        limits: &Bound<'_, PyDict>,
        call: &Bound<'_, PyDict>,
        capacity: &Bound<'_, PyDict>,
    ) -> PyResult<Session> {
        let (limits, call) = (options::limits(limits)?, options::limits(call)?);
        let capacity = options::capacity(capacity)?;
        let session = self.0.with(py, |runtime| {
            let mut config = SessionConfig::default();
            config.priority = priority.parse()?;
            config.limits = limits;
            config.call = call;
            config.capacity = capacity;
            runtime.session(name, config)
        })?;
        Ok(Session::new(session))
    }

    fn start_scheduler(&self, py: Python<'_>, slice_us: u64, scope: &str) -> PyResult<Scheduler> {
        let mut config = SchedulerConfig::default();
        config.slice = Duration::from_micros(slice_us);
        config.scope = match scope {
            "all" => SchedulerScope::All,
            "agents" => SchedulerScope::Agents,
            _ => {
                let message = format!("invalid scope {scope:?}: expected all or agents");
                return Err(error::invalid(py, message));
            }
        };
        let scheduler = self.0.with(py, |r| r.start_scheduler(config))?;
        Ok(Scheduler(Handle::new("scheduler", scheduler)))
    }

    #[expect(clippy::too_many_arguments)]
    fn attach_memcg_ops(
        &self,
        py: Python<'_>,
        high: Vec<PathBuf>,
        low: Vec<PathBuf>,
        delay_ms: u64,
        below_low: bool,
        below_min: bool,
        threshold: u64,
        window_ms: u64,
        backend: &str,
        freeze: bool,
        stuck_after_ms: u64,
        when_stuck: &str,
    ) -> PyResult<MemoryProtection> {
        let protection = self.0.with(py, |runtime| {
            let mut config = MemcgConfig::default();
            config.high = high;
            config.low = low;
            config.delay = Duration::from_millis(delay_ms);
            config.below_low = below_low;
            config.below_min = below_min;
            config.threshold = threshold;
            config.window = Duration::from_millis(window_ms);
            config.backend = backend.parse()?;
            config.freeze = freeze;
            config.stuck_after = Duration::from_millis(stuck_after_ms);
            config.when_stuck = when_stuck.parse()?;
            runtime.attach_memcg_ops(config)
        })?;
        Ok(MemoryProtection(Handle::new("protection", protection)))
    }

    #[expect(clippy::too_many_arguments)]
    fn subscribe(
        &self,
        py: Python<'_>,
        mode: u32,
        commands: Vec<String>,
        pids: Vec<i32>,
        cgroups: Vec<PathBuf>,
        uids: Vec<u32>,
        executables: Vec<PathBuf>,
        min_duration_ms: u64,
        kinds: Option<Vec<String>>,
        delay_ms: u64,
        open_window_ms: u64,
        open_rate: u32,
        args_bytes: u32,
        buffer_bytes: u32,
    ) -> PyResult<EventStream> {
        let stream = self.0.with(py, |runtime| {
            let mut filter = EventFilter::default();
            filter.mode = EventMode::from_number(mode)?;
            filter.commands = commands;
            filter.pids = pids;
            filter.cgroups = cgroups;
            filter.uids = uids;
            filter.executables = executables;
            filter.min_duration = Duration::from_millis(min_duration_ms);
            if let Some(names) = kinds {
                filter.kinds = names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
            }
            filter.delay = Duration::from_millis(delay_ms);
            filter.open_window = Duration::from_millis(open_window_ms);
            filter.open_rate = open_rate;
            filter.args_bytes = args_bytes;
            filter.buffer_bytes = buffer_bytes;
            runtime.subscribe(filter)
        })?;
        Ok(EventStream::new(stream))
    }

    fn close(&self, py: Python<'_>) {
        self.0.close(py);
    }
}
