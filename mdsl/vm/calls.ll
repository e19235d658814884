; The native code that a call is made in: see calls.py, which puts numbers in the place of the words between percent signs.
%PAUSE_DECLARATION%
declare i64 @%CLOCK%()

@acquire = internal global ptr null
@release = internal global ptr null
@forks = internal global i64 0

define void @set_up(ptr %acquire, ptr %release) {
  store ptr %acquire, ptr @acquire
  store ptr %release, ptr @release
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

define internal ptr @registers_of(ptr %job, i64 %worker) {
  %pairs = getelementptr i64, ptr %job, i64 %JOB_WORKERS%
  %pair = getelementptr [2 x i64], ptr %pairs, i64 %worker
  %registers = load ptr, ptr %pair
  ret ptr %registers
}

define internal ptr @context_of(ptr %job, i64 %worker) {
  %pairs = getelementptr i64, ptr %job, i64 %JOB_WORKERS%
  %pair = getelementptr [2 x i64], ptr %pairs, i64 %worker
  %context.p = getelementptr i64, ptr %pair, i64 1
  %context = load ptr, ptr %context.p
  ret ptr %context
}

; Runs all of a job on worker 0, who is given a team for the loops that it shares, or none.
define internal void @run(ptr %job, ptr %team) {
  %entry = load ptr, ptr %job
  %code.p = getelementptr i64, ptr %job, i64 %JOB_CODE%
  %code = load ptr, ptr %code.p
  %buffers.p = getelementptr i64, ptr %job, i64 %JOB_BUFFERS%
  %buffers = load ptr, ptr %buffers.p
  %registers = call ptr @registers_of(ptr %job, i64 0)
  %context = call ptr @context_of(ptr %job, i64 0)
  %fuel.p = getelementptr i64, ptr %job, i64 %JOB_FUEL%
  %fuel = load i64, ptr %fuel.p
  %left.p = getelementptr i64, ptr %context, i64 %CONTEXT_FUEL%
  store i64 %fuel, ptr %left.p
  %team.p = getelementptr i64, ptr %context, i64 %CONTEXT_TEAM%
  store ptr %team, ptr %team.p
  call void %entry(ptr %code, ptr %registers, ptr %buffers, ptr %context)
  ret void
}

; Runs a job with a team, which does one at a time.
define internal i64 @together(ptr %team, ptr %job) {
  %lock.p = getelementptr i64, ptr %team, i64 %LOCK%
  %lock = load ptr, ptr %lock.p
  %taken = call i32 @lock(ptr %lock, i32 1)
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  %stop = load i64, ptr %stop.p
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %leave, label %go
go:
  call void @run(ptr %job, ptr %team)
  br label %leave
leave:
  %status = phi i64 [ %STALE%, %0 ], [ %SUCCESS%, %go ]
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
  call void @run(ptr %mine, ptr null)
  br label %end
run.together:
  %ran = call i64 @together(ptr %team, ptr %mine)
  br label %end
end:
  %ended = phi i64 [ %SUCCESS%, %run.alone ], [ %ran, %run.together ]
  %context = call ptr @context_of(ptr %mine, i64 0)
  %fuel.p = getelementptr i64, ptr %context, i64 %CONTEXT_FUEL%
  %fuel = load i64, ptr %fuel.p
  %exhausted = icmp eq i64 %fuel, 0
  %status = select i1 %exhausted, i64 %EXHAUSTED%, i64 %ended
  call void @unlock(ptr %mine.lock)
  ret i64 %status
}
