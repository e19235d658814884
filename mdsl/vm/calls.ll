; The native code that a call is made in, and in which workers wait and meet: see calls.py, which puts numbers in the
; place of the words between percent signs.
%PAUSE_DECLARATION%
declare i64 @%CLOCK%()

@acquire = internal global ptr null
@release = internal global ptr null
@yield = internal global ptr null
@forks = internal global i64 0

define void @set_up(ptr %acquire, ptr %release, ptr %yield) {
  store ptr %acquire, ptr @acquire
  store ptr %release, ptr @release
  store ptr %yield, ptr @yield
  ret void
}

; For a forked child, which has none of its parent's threads: a lock that one of them held stays locked.
define void @forked() {
  %before = load i64, ptr @forks
  %after = add i64 %before, 1
  store i64 %after, ptr @forks
  ret void
}

define i64 @era() {
  %forks = load i64, ptr @forks
  ret i64 %forks
}

define internal i32 @lock(ptr %lock, i32 %wait) {
  %acquire = load ptr, ptr @acquire
  %taken = call i32 %acquire(ptr %lock, i32 %wait)
  ret i32 %taken
}

define internal void @unlock(ptr %lock) {
  %release = load ptr, ptr @release
  call void %release(ptr %lock)
  ret void
}

define void @pause(i64 %count) {
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %next, %loop ]
  %PAUSE%
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret void
}

define i64 @clock() {
  %now = call i64 @%CLOCK%()
  ret i64 %now
}

; Returns when the word is no longer `value`. The others may not be running, so in the end it yields.
define internal void @await_change(ptr %word, i64 %value) {
  %yield = load ptr, ptr @yield
  br label %look
look:
  %i = phi i64 [ 0, %0 ], [ %next, %wait ], [ %next, %give_way ]
  %now = load atomic i64, ptr %word acquire, align 8
  %same = icmp eq i64 %now, %value
  %next = add i64 %i, 1
  %impatient = icmp ugt i64 %i, 4096
  br i1 %same, label %choose, label %end
choose:
  br i1 %impatient, label %give_way, label %wait
wait:
  %PAUSE%
  br label %look
give_way:
  call i32 %yield()
  br label %look
end:
  ret void
}

; The last worker to come starts a new generation, which the others wait for. Returns whether one has stopped, who
; does not come.
define i64 @barrier(ptr %context) {
  %workers.p = getelementptr i64, ptr %context, i64 %WORKERS%
  %workers = load i64, ptr %workers.p
  %alone = icmp eq i64 %workers, 1
  br i1 %alone, label %through, label %arrive
arrive:
  %count.pp = getelementptr i64, ptr %context, i64 %BARRIER%
  %count.p = load ptr, ptr %count.pp
  %generation.p = getelementptr i64, ptr %count.p, i64 %GENERATION%
  %generation = load atomic i64, ptr %generation.p acquire, align 8
  %stopped.p = getelementptr i64, ptr %count.p, i64 %STOPPED%
  %stopped = load atomic i64, ptr %stopped.p acquire, align 8
  %is.stopped = icmp ne i64 %stopped, 0
  br i1 %is.stopped, label %late, label %come
come:
  %others = atomicrmw add ptr %count.p, i64 1 acq_rel
  %arrived = add i64 %others, 1
  %last = icmp eq i64 %arrived, %workers
  br i1 %last, label %release, label %wait
release:
  store atomic i64 0, ptr %count.p monotonic, align 8
  %following = add i64 %generation, 1
  store atomic i64 %following, ptr %generation.p release, align 8
  br label %through
through:
  ret i64 0
late:
  ret i64 1
wait:
  call void @await_change(ptr %generation.p, i64 %generation)
  %stopped.now = load atomic i64, ptr %stopped.p acquire, align 8
  ret i64 %stopped.now
}

; A worker stops: it says so, then lets those go who wait at the barrier. Who comes later sees it.
define void @stop(ptr %context) {
  %count.pp = getelementptr i64, ptr %context, i64 %BARRIER%
  %count.p = load ptr, ptr %count.pp
  %stopped.p = getelementptr i64, ptr %count.p, i64 %STOPPED%
  store atomic i64 1, ptr %stopped.p release, align 8
  %generation.p = getelementptr i64, ptr %count.p, i64 %GENERATION%
  %before = atomicrmw add ptr %generation.p, i64 1 acq_rel
  ret void
}

define internal void @run(ptr %job, i64 %worker) {
  %entry = load ptr, ptr %job
  %code.p = getelementptr i64, ptr %job, i64 %JOB_CODE%
  %code = load ptr, ptr %code.p
  %buffers.p = getelementptr i64, ptr %job, i64 %JOB_BUFFERS%
  %buffers = load ptr, ptr %buffers.p
  %pairs = getelementptr i64, ptr %job, i64 %JOB_WORKERS%
  %pair = getelementptr [2 x i64], ptr %pairs, i64 %worker
  %registers = load ptr, ptr %pair
  %context.p = getelementptr i64, ptr %pair, i64 1
  %context = load ptr, ptr %context.p
  %fuel.p = getelementptr i64, ptr %job, i64 %JOB_FUEL%
  %fuel = load i64, ptr %fuel.p
  %left.p = getelementptr i64, ptr %context, i64 %CONTEXT_FUEL%
  store i64 %fuel, ptr %left.p
  call void %entry(ptr %code, ptr %registers, ptr %buffers, ptr %context)
  ret void
}

; Gives the team's workers a job, and wakes those that are asleep.
define internal void @post(ptr %team) {
  %size.p = getelementptr i64, ptr %team, i64 %SIZE%
  %size = load i64, ptr %size.p
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  store atomic i64 0, ptr %done.p monotonic, align 8
  %before = atomicrmw add ptr %team, i64 1 seq_cst
  br label %look
look:
  %w = phi i64 [ 1, %0 ], [ %next, %look.end ]
  %more = icmp ult i64 %w, %size
  br i1 %more, label %look.one, label %end
look.one:
  %line = mul i64 %w, %LINE_WORDS%
  %place = add i64 %line, %TEAM_WORKERS%
  %asleep.p = getelementptr i64, ptr %team, i64 %place
  %asleep = load atomic i64, ptr %asleep.p seq_cst, align 8
  %is.asleep = icmp ne i64 %asleep, 0
  br i1 %is.asleep, label %look.asleep, label %look.end
look.asleep:
  %was = atomicrmw xchg ptr %asleep.p, i64 0 seq_cst
  %still = icmp ne i64 %was, 0
  br i1 %still, label %wake, label %look.end
wake:
  %waker.p = getelementptr i64, ptr %asleep.p, i64 %WAKER%
  %waker = load ptr, ptr %waker.p
  call void @unlock(ptr %waker)
  br label %look.end
look.end:
  %next = add i64 %w, 1
  br label %look
end:
  ret void
}

; Runs a job with all of the team, one at a time.
define internal i64 @together(ptr %team, ptr %job) {
  %lock.p = getelementptr i64, ptr %team, i64 %LOCK%
  %lock = load ptr, ptr %lock.p
  %taken = call i32 @lock(ptr %lock, i32 1)
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  %stop = load i64, ptr %stop.p
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %leave, label %go
go:
  %job.p = getelementptr i64, ptr %team, i64 %JOB%
  store ptr %job, ptr %job.p
  %size.p = getelementptr i64, ptr %team, i64 %SIZE%
  %size = load i64, ptr %size.p
  %others = sub i64 %size, 1
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  call void @post(ptr %team)
  call void @run(ptr %job, i64 0)
  br label %look
look:
  %done = load atomic i64, ptr %done.p acquire, align 8
  %finished = icmp eq i64 %done, %others
  br i1 %finished, label %leave, label %wait
wait:
  call void @await_change(ptr %done.p, i64 %done)
  br label %look
leave:
  %status = phi i64 [ %STALE%, %0 ], [ %SUCCESS%, %look ]
  call void @unlock(ptr %lock)
  ret i64 %status
}

; A program's call, with the addresses of its arrays.
define i64 @call(ptr %frames, ptr %arguments) {
  %era = load i64, ptr %frames
  %forks = load i64, ptr @forks
  %current = icmp eq i64 %era, %forks
  br i1 %current, label %choose, label %stale
stale:
  ret i64 %STALE%
choose:
  %count.p = getelementptr i64, ptr %frames, i64 %COUNT%
  %count = load i64, ptr %count.p
  %first = getelementptr i64, ptr %frames, i64 %FRAMES%
  br label %look
look:
  %i = phi i64 [ 0, %choose ], [ %next, %look.one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %look.one, label %none
look.one:
  %job.p = getelementptr ptr, ptr %first, i64 %i
  %job = load ptr, ptr %job.p
  %lock.p = getelementptr i64, ptr %job, i64 %JOB_LOCK%
  %lock = load ptr, ptr %lock.p
  %free = call i32 @lock(ptr %lock, i32 0)
  %taken = icmp ne i32 %free, 0
  %next = add i64 %i, 1
  br i1 %taken, label %use, label %look
none:
  %full.p = getelementptr i64, ptr %frames, i64 %FULL%
  %full = load i64, ptr %full.p
  %is.full = icmp ne i64 %full, 0
  br i1 %is.full, label %wait, label %busy
busy:
  ret i64 %BUSY%
wait:
  %turn.p = getelementptr i64, ptr %frames, i64 %TURN%
  %turn = atomicrmw add ptr %turn.p, i64 1 monotonic
  %place = urem i64 %turn, %count
  %wanted.p = getelementptr ptr, ptr %first, i64 %place
  %wanted = load ptr, ptr %wanted.p
  %wanted.lock.p = getelementptr i64, ptr %wanted, i64 %JOB_LOCK%
  %wanted.lock = load ptr, ptr %wanted.lock.p
  %waited = call i32 @lock(ptr %wanted.lock, i32 1)
  br label %use
use:
  %mine = phi ptr [ %job, %look.one ], [ %wanted, %wait ]
  %mine.lock = phi ptr [ %lock, %look.one ], [ %wanted.lock, %wait ]
  %buffers.p = getelementptr i64, ptr %mine, i64 %JOB_BUFFERS%
  %buffers = load ptr, ptr %buffers.p
  %slots = getelementptr i64, ptr %buffers, i64 %FIRST_SLOT%
  %number.p = getelementptr i64, ptr %frames, i64 %ARGUMENTS%
  %number = load i64, ptr %number.p
  br label %bind
bind:
  %j = phi i64 [ 0, %use ], [ %j.next, %bind.one ]
  %another = icmp ult i64 %j, %number
  br i1 %another, label %bind.one, label %bound
bind.one:
  %from = getelementptr i64, ptr %arguments, i64 %j
  %address = load i64, ptr %from, align 1
  %to = getelementptr i64, ptr %slots, i64 %j
  store i64 %address, ptr %to
  %j.next = add i64 %j, 1
  br label %bind
bound:
  %team.p = getelementptr i64, ptr %frames, i64 %TEAM%
  %team = load ptr, ptr %team.p
  %alone = icmp eq ptr %team, null
  br i1 %alone, label %run.alone, label %run.together
run.alone:
  call void @run(ptr %mine, i64 0)
  br label %end
run.together:
  %ran = call i64 @together(ptr %team, ptr %mine)
  br label %end
end:
  %ended = phi i64 [ %SUCCESS%, %run.alone ], [ %ran, %run.together ]
  %fuel.p = getelementptr i64, ptr %mine, i64 %JOB_FUEL%
  %fuel = load i64, ptr %fuel.p
  %limited = icmp ne i64 %fuel, 0
  br i1 %limited, label %measure, label %give
measure:
  %barrier.p = getelementptr i64, ptr %mine, i64 %JOB_BARRIER%
  %barrier = load ptr, ptr %barrier.p
  %stopped.p = getelementptr i64, ptr %barrier, i64 %STOPPED%
  %stopped = load i64, ptr %stopped.p
  %exhausted = icmp ne i64 %stopped, 0
  %measured = select i1 %exhausted, i64 %EXHAUSTED%, i64 %ended
  store i64 0, ptr %barrier
  store i64 0, ptr %stopped.p
  br label %give
give:
  %status = phi i64 [ %ended, %end ], [ %measured, %measure ]
  call void @unlock(ptr %mine.lock)
  ret i64 %status
}

; Tells the workers to stop, once the job at hand is done.
define void @halt(ptr %team) {
  %lock.p = getelementptr i64, ptr %team, i64 %LOCK%
  %lock = load ptr, ptr %lock.p
  %taken = call i32 @lock(ptr %lock, i32 1)
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  store i64 1, ptr %stop.p
  call void @post(ptr %team)
  call void @unlock(ptr %lock)
  ret void
}

; A worker's life, until the team is told to stop. One that has been idle for long sleeps on its lock until woken.
; It says that it sleeps before it looks for a job for the last time, and `post` looks for sleepers after it
; gave the job, so one of the two sees the other.
define void @serve(ptr %team, i64 %worker) {
  %line = mul i64 %worker, %LINE_WORDS%
  %place = add i64 %line, %TEAM_WORKERS%
  %asleep.p = getelementptr i64, ptr %team, i64 %place
  %seen.p = getelementptr i64, ptr %asleep.p, i64 %SEEN%
  %waker.p = getelementptr i64, ptr %asleep.p, i64 %WAKER%
  %waker = load ptr, ptr %waker.p
  %spins.p = getelementptr i64, ptr %team, i64 %SPINS%
  %spins = load i64, ptr %spins.p
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  %job.p = getelementptr i64, ptr %team, i64 %JOB%
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  br label %idle
idle:
  %seen = load i64, ptr %seen.p
  br label %look
look:
  %i = phi i64 [ 0, %idle ], [ %next, %wait ]
  %sequence = load atomic i64, ptr %team acquire, align 8
  %same = icmp eq i64 %sequence, %seen
  br i1 %same, label %wait, label %work
wait:
  %PAUSE%
  %next = add i64 %i, 1
  %patient = icmp ult i64 %next, %spins
  br i1 %patient, label %look, label %tire
tire:
  %ignored = atomicrmw xchg ptr %asleep.p, i64 1 seq_cst
  %last.look = load atomic i64, ptr %team seq_cst, align 8
  %still = icmp eq i64 %last.look, %seen
  br i1 %still, label %sleep, label %get.up
get.up:
  %mine = atomicrmw xchg ptr %asleep.p, i64 0 seq_cst
  %not.woken = icmp eq i64 %mine, 1
  br i1 %not.woken, label %idle, label %sleep
sleep:
  %woken = call i32 @lock(ptr %waker, i32 1)
  br label %idle
work:
  store i64 %sequence, ptr %seen.p
  %stop = load i64, ptr %stop.p
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %end, label %do
do:
  %job = load ptr, ptr %job.p
  call void @run(ptr %job, i64 %worker)
  %count = atomicrmw add ptr %done.p, i64 1 release
  br label %idle
end:
  ret void
}
