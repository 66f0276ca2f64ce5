//! Measuring: workers that do one operation after another for some time, and what that cost the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::process;

/// What is measured.
pub(crate) struct Server {
    /// Its name in the table.
    pub(crate) name: String,
    /// All its processes.
    pub(crate) pids: Vec<u32>,
    /// How long each measure takes.
    pub(crate) duration: Duration,
}

/// Does one operation after another.
pub(crate) trait Worker: Send + 'static {
    /// The `i`-th operation; false when the server refused it.
    fn operate(&mut self, i: u64) -> impl Future<Output = Result<bool>> + Send;
}

impl Server {
    /// Prints one measured value.
    #[expect(clippy::print_stdout, reason = "a command line tool")]
    pub(crate) fn say(&self, measure: &str, value: f64, unit: &str) {
        println!("{}\t{measure}\t{value:.1}\t{unit}", self.name);
    }

    /// Lets the workers work, and prints rate, median time and server CPU of an operation.
    ///
    /// # Errors
    /// When a connection broke or an operation was refused.
    pub(crate) async fn phase<W: Worker>(&self, label: &str, workers: Vec<W>) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let label = format!("{label}, {} client{}", workers.len(), if workers.len() == 1 { "" } else { "s" });
        let (cpu, began) = (process::cpu_seconds(&self.pids)?, now());
        let tasks: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(work(worker, Arc::clone(&stop)))).collect();
        tokio::time::sleep(self.duration).await;
        stop.store(true, Ordering::Relaxed);
        let (mut times, mut refused) = (Vec::new(), 0);
        for task in tasks {
            let (took, not_done) = task.await??;
            times.extend(took);
            refused += not_done;
        }
        let took = began.elapsed();
        ensure!(refused == 0 && !times.is_empty(), "{label}: {refused} operations were refused");
        times.sort_unstable();
        let used = process::cpu_seconds(&self.pids)? - cpu;
        self.say(&format!("{label}: rate"), times.len() as f64 / took.as_secs_f64(), "per s");
        self.say(&format!("{label}: p50"), micros(times[times.len() / 2]), "µs");
        self.say(&format!("{label}: server CPU"), used * 1e6 / times.len() as f64, "µs");
        Ok(())
    }

    /// Prints memory and CPU of the processes over the duration, in which nobody asks anything of them.
    ///
    /// # Errors
    /// When a process is gone.
    pub(crate) fn idle(&self) -> Result<()> {
        let before = process::cpu_seconds(&self.pids)?;
        std::thread::sleep(self.duration);
        let used = process::cpu_seconds(&self.pids)? - before;
        self.say("memory idle (PSS)", process::pss_bytes(&self.pids)? as f64 / 1_048_576.0, "MiB");
        self.say("CPU idle", used / self.duration.as_secs_f64() * 100.0, "% of a core");
        Ok(())
    }
}

async fn work<W: Worker>(mut worker: W, stop: Arc<AtomicBool>) -> Result<(Vec<Duration>, u64)> {
    let (mut times, mut refused) = (Vec::new(), 0);
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sent = now();
        if worker.operate(i).await? {
            times.push(sent.elapsed());
        } else {
            refused += 1;
        }
    }
    Ok((times, refused))
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
