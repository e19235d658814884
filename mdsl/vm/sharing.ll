; The native code in which workers share the trips of a loop: see calls.py. It is joined to calls.ll.
; The trips of a loop before one of its units: each unit has an equal part, the first ones one more.
define internal i64 @trips_before(ptr %loop, i64 %unit) {
  %part.p = getelementptr i64, ptr %loop, i64 %LOOP_PART%
  %part = load i64, ptr %part.p
  %rest.p = getelementptr i64, ptr %loop, i64 %LOOP_REST%
  %rest = load i64, ptr %rest.p
  %parts = mul i64 %unit, %part
  %more = call i64 @llvm.umin.i64(i64 %unit, i64 %rest)
  %trips = add i64 %parts, %more
  ret i64 %trips
}

declare i64 @llvm.umin.i64(i64, i64)

; A worker runs units of a loop: `chunk` is the first of them and, above it, the one after the last. One that is out of
; fuel runs nothing more.
define internal void @run_chunk(ptr %loop, ptr %registers, ptr %context, i64 %chunk) {
  %fuel.p = getelementptr i64, ptr %context, i64 %CONTEXT_FUEL%
  %fuel = load i64, ptr %fuel.p
  %empty = icmp eq i64 %fuel, 0
  br i1 %empty, label %end, label %run
run:
  %first.unit = and i64 %chunk, %UNITS%
  %last.unit = lshr i64 %chunk, %UNIT_BITS%
  %first = call i64 @trips_before(ptr %loop, i64 %first.unit)
  %last = call i64 @trips_before(ptr %loop, i64 %last.unit)
  %lower.p = getelementptr i64, ptr %loop, i64 %LOOP_LOWER%
  %lower = load i64, ptr %lower.p
  %step.p = getelementptr i64, ptr %loop, i64 %LOOP_STEP%
  %step = load i64, ptr %step.p
  %begin.steps = mul i64 %first, %step
  %begin = add i64 %lower, %begin.steps
  %end.steps = mul i64 %last, %step
  %stop = add i64 %lower, %end.steps
  %live.p = getelementptr i64, ptr %loop, i64 %LOOP_LIVE%
  %live = load ptr, ptr %live.p
  %counter = load i64, ptr %live
  %counter.p = getelementptr i8, ptr %registers, i64 %counter
  store i64 %begin, ptr %counter.p
  %stop.p = getelementptr i64, ptr %context, i64 %CONTEXT_STOP%
  store i64 %stop, ptr %stop.p
  %entry = load ptr, ptr %loop
  %code.p = getelementptr i64, ptr %loop, i64 %LOOP_CODE%
  %code = load ptr, ptr %code.p
  %job.p = getelementptr i64, ptr %loop, i64 %LOOP_JOB%
  %job = load ptr, ptr %job.p
  %buffers.p = getelementptr i64, ptr %job, i64 %JOB_BUFFERS%
  %buffers = load ptr, ptr %buffers.p
  call void %entry(ptr %code, ptr %registers, ptr %buffers, ptr %context)
  br label %end
end:
  ret void
}

define internal i64 @length(i64 %chunk) {
  %first = and i64 %chunk, %UNITS%
  %last = lshr i64 %chunk, %UNIT_BITS%
  %units = sub i64 %last, %first
  ret i64 %units
}

; Takes half of what is left of a share: its owner from the front, so that an undisturbed worker does its own part in
; order, others from the back. A chunk, or 0 if nothing is left.
define internal i64 @claim(ptr %share, i1 %own) {
  %seen = load atomic i64, ptr %share acquire, align 8
  br label %look
look:
  %word = phi i64 [ %seen, %0 ], [ %now, %take ]
  %first = and i64 %word, %UNITS%
  %above = lshr i64 %word, %UNIT_BITS%
  %last = and i64 %above, %UNITS%
  %left = sub i64 %last, %first
  %some = icmp ne i64 %left, 0
  br i1 %some, label %take, label %none
take:
  %rounded = add i64 %left, 1
  %half = lshr i64 %rounded, 1
  %front = add i64 %first, %half
  %back = sub i64 %last, %half
  %begin = select i1 %own, i64 %first, i64 %back
  %end = select i1 %own, i64 %front, i64 %last
  %without.front = add i64 %word, %half
  %half.above = shl i64 %half, %UNIT_BITS%
  %without.back = sub i64 %word, %half.above
  %rest = select i1 %own, i64 %without.front, i64 %without.back
  %pair = cmpxchg ptr %share, i64 %word, i64 %rest acq_rel acquire
  %now = extractvalue { i64, i1 } %pair, 0
  %taken = extractvalue { i64, i1 } %pair, 1
  br i1 %taken, label %found, label %look
found:
  %end.above = shl i64 %end, %UNIT_BITS%
  %chunk = or i64 %begin, %end.above
  ret i64 %chunk
none:
  ret i64 0
}

define internal ptr @line_of(ptr %team, i64 %worker) {
  %line = mul i64 %worker, %LINE_WORDS%
  %place = add i64 %line, %TEAM_WORKERS%
  %share = getelementptr i64, ptr %team, i64 %place
  ret ptr %share
}

; The next chunk for a worker: of its own share, else of another's; 0 if there is none.
define internal i64 @find(ptr %team, i64 %worker) {
  %size.p = getelementptr i64, ptr %team, i64 %SIZE%
  %size = load i64, ptr %size.p
  br label %look
look:
  %i = phi i64 [ 0, %0 ], [ %next, %look.one ]
  %more = icmp ult i64 %i, %size
  br i1 %more, label %look.one, label %none
look.one:
  %sum = add i64 %worker, %i
  %whose = urem i64 %sum, %size
  %share = call ptr @line_of(ptr %team, i64 %whose)
  %own = icmp eq i64 %i, 0
  %chunk = call i64 @claim(ptr %share, i1 %own)
  %next = add i64 %i, 1
  %found = icmp ne i64 %chunk, 0
  br i1 %found, label %end, label %look
end:
  ret i64 %chunk
none:
  ret i64 0
}

; Gives every worker a share of the units, and wakes those that are asleep; the submitting worker's share is written
; first, in case the others are faster.
define internal void @post(ptr %team, i64 %units) {
  %size.p = getelementptr i64, ptr %team, i64 %SIZE%
  %size = load i64, ptr %size.p
  %number.p = getelementptr i64, ptr %team, i64 %NUMBER%
  %number = load i64, ptr %number.p
  %following = add i64 %number, %ONE_LOOP%
  store i64 %following, ptr %number.p
  %part = udiv i64 %units, %size
  %rest = urem i64 %units, %size
  br label %look
look:
  %w = phi i64 [ 0, %0 ], [ %next, %look.end ]
  %first = phi i64 [ 0, %0 ], [ %last, %look.end ]
  %more = icmp ult i64 %w, %size
  br i1 %more, label %look.one, label %end
look.one:
  %longer = icmp ult i64 %w, %rest
  %one = zext i1 %longer to i64
  %length = add i64 %part, %one
  %last = add i64 %first, %length
  %last.above = shl i64 %last, %UNIT_BITS%
  %range = or i64 %first, %last.above
  %word = or i64 %range, %following
  %share = call ptr @line_of(ptr %team, i64 %w)
  %before = atomicrmw xchg ptr %share, i64 %word seq_cst
  %asleep = and i64 %before, %ASLEEP%
  %is.asleep = icmp ne i64 %asleep, 0
  br i1 %is.asleep, label %wake, label %look.end
wake:
  %waker.p = getelementptr i64, ptr %share, i64 %WAKER%
  %waker = load ptr, ptr %waker.p
  call void @unlock(ptr %waker)
  br label %look.end
look.end:
  %next = add i64 %w, 1
  br label %look
end:
  ret void
}

; Looks for a while whether a word has changed; the last one seen.
define internal i64 @watch(ptr %spins.p, ptr %word, i64 %value) {
  %spins = load i64, ptr %spins.p
  br label %look
look:
  %i = phi i64 [ 0, %0 ], [ %next, %wait ]
  %now = load atomic i64, ptr %word acquire, align 8
  %same = icmp eq i64 %now, %value
  br i1 %same, label %wait, label %end
wait:
  %PAUSE%
  %next = add i64 %i, 1
  %patient = icmp ult i64 %next, %spins
  br i1 %patient, label %look, label %end
end:
  ret i64 %now
}

; Returns when a word is, or may be, no longer `value`. In the end it marks the word and sleeps: whoever changes a word
; and takes the mark away wakes the sleeper.
define internal void @await_change(ptr %spins.p, ptr %word, i64 %value, ptr %waker.p) {
  %now = call i64 @watch(ptr %spins.p, ptr %word, i64 %value)
  %same = icmp eq i64 %now, %value
  br i1 %same, label %tire, label %end
tire:
  %marked = or i64 %value, %ASLEEP%
  %pair = cmpxchg ptr %word, i64 %value, i64 %marked seq_cst acquire
  %sleeps = extractvalue { i64, i1 } %pair, 1
  br i1 %sleeps, label %sleep, label %end
sleep:
  %waker = load ptr, ptr %waker.p
  %woken = call i32 @lock(ptr %waker, i32 1)
  br label %end
end:
  ret void
}

; Says that a worker has done units of a loop, and wakes the submitting worker if it waits for them.
define internal void @report(ptr %team, i64 %units) {
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  %before = atomicrmw add ptr %done.p, i64 %units seq_cst
  %asleep = and i64 %before, %ASLEEP%
  %is.asleep = icmp ne i64 %asleep, 0
  br i1 %is.asleep, label %take, label %end
take:
  %mark.off = xor i64 %ASLEEP%, -1
  %marked = atomicrmw and ptr %done.p, i64 %mark.off seq_cst
  %mark = and i64 %marked, %ASLEEP%
  %mine = icmp ne i64 %mark, 0
  br i1 %mine, label %wake, label %end
wake:
  %first = call ptr @line_of(ptr %team, i64 0)
  %waker.p = getelementptr i64, ptr %first, i64 %WAKER%
  %waker = load ptr, ptr %waker.p
  call void @unlock(ptr %waker)
  br label %end
end:
  ret void
}

; Runs a loop on the submitting worker alone.
define internal void @run_alone(ptr %loop, ptr %registers, ptr %context, i64 %trips) {
  %part.p = getelementptr i64, ptr %loop, i64 %LOOP_PART%
  store i64 %trips, ptr %part.p
  %rest.p = getelementptr i64, ptr %loop, i64 %LOOP_REST%
  store i64 0, ptr %rest.p
  %chunk = shl i64 1, %UNIT_BITS%
  call void @run_chunk(ptr %loop, ptr %registers, ptr %context, i64 %chunk)
  ret void
}

; Runs a loop with whoever of the team comes. Returns when all of it is done.
define internal void @run_shared(ptr %team, ptr %loop, ptr %registers, ptr %context, i64 %trips) {
  %units = call i64 @llvm.umin.i64(i64 %trips, i64 %UNITS%)
  %part = udiv i64 %trips, %units
  %part.p = getelementptr i64, ptr %loop, i64 %LOOP_PART%
  store i64 %part, ptr %part.p
  %rest = urem i64 %trips, %units
  %rest.p = getelementptr i64, ptr %loop, i64 %LOOP_REST%
  store i64 %rest, ptr %rest.p
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  store atomic i64 0, ptr %done.p monotonic, align 8
  %spent.p = getelementptr i64, ptr %team, i64 %SPENT%
  store atomic i64 0, ptr %spent.p monotonic, align 8
  call void @post(ptr %team, i64 %units)
  br label %work
work:
  %own = phi i64 [ 0, %0 ], [ %own.next, %chunk ]
  %found = call i64 @find(ptr %team, i64 0)
  %some = icmp ne i64 %found, 0
  br i1 %some, label %chunk, label %look
chunk:
  call void @run_chunk(ptr %loop, ptr %registers, ptr %context, i64 %found)
  %length = call i64 @length(i64 %found)
  %own.next = add i64 %own, %length
  br label %work
look:
  %done = load atomic i64, ptr %done.p acquire, align 8
  %all = add i64 %done, %own
  %finished = icmp eq i64 %all, %units
  br i1 %finished, label %settle, label %wait
wait:
  %first = call ptr @line_of(ptr %team, i64 0)
  %waker.p = getelementptr i64, ptr %first, i64 %WAKER%
  %spins.p = getelementptr i64, ptr %team, i64 %LATE_SPINS%
  call void @await_change(ptr %spins.p, ptr %done.p, i64 %done, ptr %waker.p)
  br label %look
settle:
  %spent = load atomic i64, ptr %spent.p monotonic, align 8
  %fuel.p = getelementptr i64, ptr %context, i64 %CONTEXT_FUEL%
  %fuel = load i64, ptr %fuel.p
  %least = call i64 @llvm.umin.i64(i64 %fuel, i64 %spent)
  %left = sub i64 %fuel, %least
  store i64 %left, ptr %fuel.p
  ret void
}

; A parallel loop. `live` tells the byte offset of the counter in a worker's registers, how many other registers the body
; reads, and their offsets. The loop's block is the team's, or its own if there is no team.
define void @share(ptr %context, ptr %entry, ptr %code, ptr %registers, ptr %live, i64 %lower, i64 %step, i64 %trips) {
  %own.loop = alloca [%LINE_WORDS% x i64], align 64
  %none = icmp eq i64 %trips, 0
  br i1 %none, label %end, label %some
some:
  %team.p = getelementptr i64, ptr %context, i64 %CONTEXT_TEAM%
  %team = load ptr, ptr %team.p
  %no.team = icmp eq ptr %team, null
  %one = icmp eq i64 %trips, 1
  %alone = or i1 %no.team, %one
  %team.loop = getelementptr i64, ptr %team, i64 %LOOP%
  %loop = select i1 %alone, ptr %own.loop, ptr %team.loop
  store ptr %entry, ptr %loop
  %code.p = getelementptr i64, ptr %loop, i64 %LOOP_CODE%
  store ptr %code, ptr %code.p
  %registers.p = getelementptr i64, ptr %loop, i64 %LOOP_REGISTERS%
  store ptr %registers, ptr %registers.p
  %live.p = getelementptr i64, ptr %loop, i64 %LOOP_LIVE%
  store ptr %live, ptr %live.p
  %lower.p = getelementptr i64, ptr %loop, i64 %LOOP_LOWER%
  store i64 %lower, ptr %lower.p
  %step.p = getelementptr i64, ptr %loop, i64 %LOOP_STEP%
  store i64 %step, ptr %step.p
  %fuel.p = getelementptr i64, ptr %context, i64 %CONTEXT_FUEL%
  %fuel = load i64, ptr %fuel.p
  %loop.fuel.p = getelementptr i64, ptr %loop, i64 %LOOP_FUEL%
  store i64 %fuel, ptr %loop.fuel.p
  %job.p = getelementptr i64, ptr %context, i64 %CONTEXT_JOB%
  %job = load ptr, ptr %job.p
  %loop.job.p = getelementptr i64, ptr %loop, i64 %LOOP_JOB%
  store ptr %job, ptr %loop.job.p
  br i1 %alone, label %run.alone, label %run.shared
run.alone:
  call void @run_alone(ptr %loop, ptr %registers, ptr %context, i64 %trips)
  br label %end
run.shared:
  call void @run_shared(ptr %team, ptr %loop, ptr %registers, ptr %context, i64 %trips)
  br label %end
end:
  ret void
}

; Tells the workers to stop, once the job at hand is done.
define void @halt(ptr %team) {
  %lock.p = getelementptr i64, ptr %team, i64 %LOCK%
  %lock = load ptr, ptr %lock.p
  %taken = call i32 @lock(ptr %lock, i32 1)
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  store atomic i64 1, ptr %stop.p release, align 8
  call void @post(ptr %team, i64 0)
  call void @unlock(ptr %lock)
  ret void
}

; Copies the registers that a loop's body reads.
define internal void @copy_live(ptr %loop, ptr %registers) {
  %from.p = getelementptr i64, ptr %loop, i64 %LOOP_REGISTERS%
  %from = load ptr, ptr %from.p
  %live.p = getelementptr i64, ptr %loop, i64 %LOOP_LIVE%
  %live = load ptr, ptr %live.p
  %count.p = getelementptr i64, ptr %live, i64 1
  %count = load i64, ptr %count.p
  %offsets = getelementptr i64, ptr %live, i64 2
  br label %look
look:
  %i = phi i64 [ 0, %0 ], [ %next, %one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %end
one:
  %offset.p = getelementptr i64, ptr %offsets, i64 %i
  %offset = load i64, ptr %offset.p
  %source = getelementptr i8, ptr %from, i64 %offset
  %value = load i64, ptr %source
  %target = getelementptr i8, ptr %registers, i64 %offset
  store i64 %value, ptr %target
  %next = add i64 %i, 1
  br label %look
end:
  ret void
}

; A worker that has got a chunk of a loop helps with it until there is nothing left to take. It may read the loop's
; block and its job's memory because of the chunk: without it the loop cannot end, with it reported both may be gone.
define internal void @help(ptr %team, i64 %worker, i64 %got) {
  %loop = getelementptr i64, ptr %team, i64 %LOOP%
  %job.p = getelementptr i64, ptr %loop, i64 %LOOP_JOB%
  %job = load ptr, ptr %job.p
  %registers = call ptr @registers_of(ptr %job, i64 %worker)
  %context = call ptr @context_of(ptr %job, i64 %worker)
  call void @copy_live(ptr %loop, ptr %registers)
  %given.p = getelementptr i64, ptr %loop, i64 %LOOP_FUEL%
  %given = load i64, ptr %given.p
  %fuel.p = getelementptr i64, ptr %context, i64 %CONTEXT_FUEL%
  store i64 %given, ptr %fuel.p
  br label %work
work:
  %chunk = phi i64 [ %got, %0 ], [ %following, %work ]
  %before = phi i64 [ 0, %0 ], [ %units, %work ]
  call void @run_chunk(ptr %loop, ptr %registers, ptr %context, i64 %chunk)
  %length = call i64 @length(i64 %chunk)
  %units = add i64 %before, %length
  %following = call i64 @find(ptr %team, i64 %worker)
  %more = icmp ne i64 %following, 0
  br i1 %more, label %work, label %tell
tell:
  %left = load i64, ptr %fuel.p
  %spent = sub i64 %given, %left
  %some = icmp ne i64 %spent, 0
  br i1 %some, label %account, label %end
account:
  %spent.p = getelementptr i64, ptr %team, i64 %SPENT%
  %others = atomicrmw add ptr %spent.p, i64 %spent monotonic
  br label %end
end:
  call void @report(ptr %team, i64 %units)
  ret void
}

; A worker's life, until the team is told to stop. One that has been idle for long sleeps on its lock until woken.
define void @serve(ptr %team, i64 %worker) {
  %share = call ptr @line_of(ptr %team, i64 %worker)
  %waker.p = getelementptr i64, ptr %share, i64 %WAKER%
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  %spins.p = getelementptr i64, ptr %team, i64 %SPINS%
  br label %look
look:
  %seen = load atomic i64, ptr %share acquire, align 8
  %chunk = call i64 @find(ptr %team, i64 %worker)
  %found = icmp ne i64 %chunk, 0
  br i1 %found, label %work, label %check
work:
  call void @help(ptr %team, i64 %worker, i64 %chunk)
  br label %look
check:
  %stop = load atomic i64, ptr %stop.p acquire, align 8
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %end, label %idle
idle:
  call void @await_change(ptr %spins.p, ptr %share, i64 %seen, ptr %waker.p)
  br label %look
end:
  ret void
}
