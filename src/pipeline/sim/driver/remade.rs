//! Worlds in which the topic is deleted and made again: nothing of the new one may enter a table, and
//! every process says so.

use super::*;

/// How long processes read on in the new topic before they are asked to stop.
const AFTER: Duration = Duration::from_secs(3);

impl Driver {
    pub(super) async fn run_remade(&mut self) {
        let began = Instant::now();
        while !self.sim.lock().lakes.iter().all(|lake| lake.commits() > 0) {
            if self.stalls(began, "nothing is committed") {
                return;
            }
            self.start_due(false);
            self.act();
            self.turn().await;
        }
        self.calm();
        self.sim.lock().remake();
        let began = Instant::now();
        while began.elapsed() < AFTER && !self.has_found() {
            self.turn().await;
        }
        for process in self.processes.iter().flatten() {
            process.stop.send_replace(true);
        }
        self.wait_for_the_end("a process does not stop").await;
        self.starts.fill(Instant::now());
        self.start_due(true);
        self.wait_for_the_end("a process is not refused").await;
        self.wait_for_requests().await;
        if !self.has_found() {
            let mut state = self.sim.lock();
            for at in 0..state.lakes.len() {
                if state.live_rows(at).0.iter().any(|row| !state.is_of_the_first_topic(*row)) {
                    state.find(String::from("a record of a topic that was made again"));
                }
            }
        }
    }
}
