//! Mutex and Condvar with which one thread runs at a time, and whoever calls [`explore`] decides
//! which: at each lock, each notification, and for which of several a notification is. A wait that
//! has a limit ends at a notification only, so that time does not make good for one that is lost.

use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LockResult};
use std::thread;
use std::time::Duration;

pub(super) use std::sync::PoisonError;

use fastrand::Rng;

const STUCK: &str = "all wait, and nobody wakes them";

type Body = Box<dyn FnOnce() + Send>;

/// What a thread is about to do.
enum Next {
    Go,
    Lock(usize),
    /// A notification of this one, then the lock.
    Wake(usize, usize),
    When(Arc<dyn Fn() -> bool + Send + Sync>),
    End,
}

/// Which of several goes on: the first ones as they were written down, then the present one as long
/// as it can, or at random.
#[derive(Default)]
struct Choices {
    made: Vec<(usize, usize)>,
    at: usize,
    random: Option<Rng>,
}

impl Choices {
    fn of(&mut self, options: usize) -> usize {
        if let Some(rng) = &mut self.random {
            return rng.usize(..options);
        }
        if self.at == self.made.len() {
            self.made.push((0, options));
        }
        let (chosen, of) = self.made[self.at];
        assert_eq!(of, options, "a test that goes another way when it is run again");
        self.at += 1;
        chosen
    }

    /// Goes on to the next way; false if there is none.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, options)) = self.made.pop() {
            if chosen + 1 < options {
                self.made.push((chosen + 1, options));
                return true;
            }
        }
        false
    }
}

struct State {
    threads: Vec<Next>,
    running: usize,
    locked: Vec<usize>,
    choices: Choices,
    /// How often another than the first that may go on may still be taken.
    changes: usize,
    failed: Option<Box<dyn Any + Send>>,
}

impl State {
    fn can_go(&self, thread: usize) -> bool {
        match &self.threads[thread] {
            Next::Go => true,
            Next::Lock(mutex) => !self.locked.contains(mutex),
            Next::When(holds) => holds(),
            Next::Wake(..) | Next::End => false,
        }
    }

    /// Decides who goes on.
    fn pass_on(&mut self) {
        let mut ready: Vec<usize> = (0..self.threads.len()).filter(|t| self.can_go(*t)).collect();
        if let Some(me) = ready.iter().position(|thread| *thread == self.running) {
            ready.swap(0, me);
        }
        match ready.len() {
            0 if self.threads.iter().all(|next| matches!(next, Next::End)) => {}
            0 => self.failed = Some(Box::new(STUCK)),
            options => self.running = ready[self.choose(options)],
        }
    }

    fn choose(&mut self, options: usize) -> usize {
        if options == 1 || self.changes == 0 {
            return 0;
        }
        let chosen = self.choices.of(options);
        self.changes -= usize::from(chosen > 0);
        chosen
    }
}

struct World {
    state: std::sync::Mutex<State>,
    turn: std::sync::Condvar,
    mutexes: AtomicUsize,
}

thread_local! {
    static ME: RefCell<Option<(Arc<World>, usize)>> = const { RefCell::new(None) };
}

impl World {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread says what it is about to do, and goes on when it is its turn. False: the run has
    /// failed, and all are on their way out.
    fn turn(&self, me: usize, next: Next) -> bool {
        let mut state = self.lock();
        if state.failed.is_none() {
            state.threads[me] = next;
            state.pass_on();
            self.turn.notify_all();
            while state.failed.is_none() && state.running != me {
                state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if state.failed.is_some() {
            drop(state);
            // Not while it is on its way out already: what is dropped there may lock, too.
            return match thread::panicking() {
                true => false,
                false => resume_unwind(Box::new("elsewhere")),
            };
        }
        if let Next::Lock(mutex) = state.threads[me] {
            state.locked.push(mutex);
        }
        state.threads[me] = Next::Go;
        true
    }
}

/// Who I am.
fn me() -> (Arc<World>, usize) {
    ME.with_borrow(|me| me.clone()).expect("a thread of `explore`")
}

fn turn(next: Next) -> bool {
    let (world, me) = me();
    world.turn(me, next)
}

/// Waits until this holds; it may only look at what is no lock.
pub(super) fn wait_until(holds: impl Fn() -> bool + Send + Sync + 'static) {
    turn(Next::When(Arc::new(holds)));
}

pub(super) struct Mutex<T> {
    id: usize,
    data: std::sync::Mutex<T>,
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        let id = me().0.mutexes.fetch_add(1, Ordering::Relaxed);
        Self { id, data: std::sync::Mutex::default() }
    }
}

impl<T> Mutex<T> {
    pub(super) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        turn(Next::Lock(self.id));
        Ok(self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, T> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, data: Some(data) }
    }
}

pub(super) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    data: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.data = None;
        me().0.lock().locked.retain(|locked| *locked != self.mutex.id);
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.data.as_ref().expect("locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.data.as_mut().expect("locked")
    }
}

pub(super) struct Condvar {
    id: usize,
}

impl Condvar {
    pub(super) fn new() -> Self {
        Self { id: me().0.mutexes.fetch_add(1, Ordering::Relaxed) }
    }

    pub(super) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let mutex = guard.mutex;
        drop(guard);
        turn(Next::Wake(self.id, mutex.id));
        Ok(mutex.locked())
    }

    pub(super) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        Ok((self.wait(guard).unwrap_or_else(PoisonError::into_inner), false))
    }

    pub(super) fn notify_one(&self) {
        self.notify(false);
    }

    pub(super) fn notify_all(&self) {
        self.notify(true);
    }

    fn notify(&self, all: bool) {
        if !turn(Next::Go) {
            return;
        }
        let (world, _) = me();
        let mut state = world.lock();
        let waits = |next: &Next| matches!(next, Next::Wake(condvar, _) if *condvar == self.id);
        let mut waiting: Vec<usize> =
            (0..state.threads.len()).filter(|thread| waits(&state.threads[*thread])).collect();
        if !all && waiting.len() > 1 {
            let chosen = state.choose(waiting.len());
            waiting = vec![waiting[chosen]];
        }
        for thread in waiting {
            if let Next::Wake(_, mutex) = state.threads[thread] {
                state.threads[thread] = Next::Lock(mutex);
            }
        }
    }
}

/// How to go through the ways in which threads may take turns.
#[derive(Clone, Copy)]
pub(super) enum Ways {
    /// All in which a thread that could go on is made to wait, or another is woken than the first,
    /// at most so often.
    All { changes: usize },
    /// So many at random.
    Random(u64),
}

/// Runs what `threads` makes in many ways; the number of them. The bodies are made in a thread that
/// may already use locks.
///
/// # Panics
/// Some way ends in a panic, or with threads that wait for ever.
pub(super) fn explore(ways: Ways, threads: impl Fn() -> Vec<Body> + Send + Sync + 'static) -> u64 {
    let (threads, mut choices, mut count) = (Arc::new(threads), Choices::default(), 0);
    loop {
        let mut changes = usize::MAX;
        match ways {
            Ways::All { changes: most } => changes = most,
            Ways::Random(_) => choices.random = Some(Rng::with_seed(count)),
        }
        choices = run(threads.clone(), choices, changes, count);
        count += 1;
        let more = match ways {
            Ways::All { .. } => choices.advance(),
            Ways::Random(most) => count < most,
        };
        if !more {
            return count;
        }
    }
}

/// One way. The first thread makes the others, is at its end, and only then they begin.
fn run(
    threads: Arc<impl Fn() -> Vec<Body> + Send + Sync + 'static>,
    choices: Choices,
    changes: usize,
    number: u64,
) -> Choices {
    let state = State {
        threads: vec![Next::Go],
        running: 0,
        locked: Vec::new(),
        choices,
        changes,
        failed: None,
    };
    let (turn, mutexes) = (std::sync::Condvar::new(), AtomicUsize::new(0));
    let world = Arc::new(World { state: std::sync::Mutex::new(state), turn, mutexes });
    ME.set(Some((world.clone(), 0)));
    let bodies = threads();
    ME.set(None);
    world.lock().threads.extend(bodies.iter().map(|_| Next::Go));
    let spawned: Vec<_> = (1..)
        .zip(bodies)
        .map(|(me, body)| {
            let world = world.clone();
            thread::spawn(move || {
                ME.set(Some((world.clone(), me)));
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    begin(&world, me);
                    body();
                }));
                let mut state = world.lock();
                state.threads[me] = Next::End;
                match ended {
                    Err(why) if state.failed.is_none() => state.failed = Some(why),
                    Ok(()) if state.failed.is_none() => state.pass_on(),
                    _ => {}
                }
                world.turn.notify_all();
            })
        })
        .collect();
    {
        let mut state = world.lock();
        state.threads[0] = Next::End;
        state.pass_on();
        world.turn.notify_all();
    }
    for thread in spawned {
        drop(thread.join());
    }
    let mut state = world.lock();
    if let Some(why) = state.failed.take() {
        let made = &state.choices.made;
        match why.downcast_ref::<&str>() {
            Some(why) if *why == STUCK => panic!("{why}: way {number}, by the choices {made:?}"),
            _ => println!("way {number}, by the choices {made:?}"),
        }
        resume_unwind(why);
    }
    std::mem::take(&mut state.choices)
}

/// Waits for the first turn.
fn begin(world: &World, me: usize) {
    let mut state = world.lock();
    while state.failed.is_none() && state.running != me {
        state = world.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    let failed = state.failed.is_some();
    drop(state);
    if failed {
        resume_unwind(Box::new("elsewhere"));
    }
}
