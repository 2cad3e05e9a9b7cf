package smartbatch.frontend.models;

import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.util.concurrent.Executor;
import java.util.concurrent.LinkedBlockingDeque;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Predicate;
import org.pytorch.serve.job.Job;
import org.pytorch.serve.util.NettyUtils;
import org.pytorch.serve.util.messages.WorkerCommands;
import smartbatch.frontend.http.Answer;

/**
 * The requests that wait for a worker of one version of a model, in the order they came.
 *
 * <p>No worker sees a request whose deadline has passed, or whose client has gone: whoever polls gets the next one, in
 * the time he gave. While anybody waits, the queue looks from time to time whether a worker will ever come; those who
 * would wait for ever are told so.
 */
final class JobQueue extends LinkedBlockingDeque<Job> {
    private final transient Predicate<JobQueue> isServed;
    private final transient Executor soon;
    private final AtomicBoolean isWatched = new AtomicBoolean();
    private volatile int mostOfBatch = Integer.MAX_VALUE;
    private int numOfBatch; // one worker gathers at a time, under its model's lock

    /**
     * @param isServed whether any worker takes from this queue, or will once it is up.
     * @param soon runs a task after as long as a client may be left without a worker.
     */
    JobQueue(int capacity, Predicate<JobQueue> isServed, Executor soon) {
        super(capacity);
        this.isServed = isServed;
        this.soon = soon;
    }

    @Override
    public boolean offer(Job job) {
        boolean isTaken = super.offer(job);
        watch();
        return isTaken;
    }

    /** Put back what was polled; refused where a newcomer has its place, which TorchServe's worker threads die of. */
    @Override
    public void addFirst(Job job) {
        if (!offerFirst(job)) {
            refuse(job, HttpResponseStatus.SERVICE_UNAVAILABLE, "overloaded", "too many requests wait for this model");
        }
        watch();
    }

    @Override
    public Job poll() {
        Job job = super.poll();
        while (job != null && isOver(job)) {
            job = super.poll();
        }
        return job;
    }

    @Override
    public Job poll(long timeout, TimeUnit unit) throws InterruptedException {
        if (timeout == Long.MAX_VALUE) { // a batch's first request is waited for without end
            numOfBatch = 0;
        } else if (numOfBatch >= mostOfBatch) {
            return null; // as if nobody else waited: the batch goes to its worker
        }
        long start = System.nanoTime();
        Job job = super.poll(timeout, unit);
        while (job != null && isOver(job)) {
            job = super.poll(unit.toNanos(timeout) - (System.nanoTime() - start), TimeUnit.NANOSECONDS);
        }
        if (job != null) {
            numOfBatch++;
            ChannelHandlerContext connection = Inside.connection(job);
            if (connection != null) {
                connection.channel().attr(BatchBounds.QUEUE).set(this);
            }
        }
        return job;
    }

    /** Give no batch more requests than this from now on, whatever the batch size is. */
    void handOverAtMost(int requests) {
        mostOfBatch = requests;
    }

    /** Answer all that wait with an error. */
    void refuseAll(HttpResponseStatus status, String code, String message) {
        for (Job job = super.poll(); job != null; job = super.poll()) {
            refuse(job, status, code, message);
        }
    }

    /** Whether nobody waits for this job's answer any more; who has to be told is told. */
    private boolean isOver(Job job) {
        if (job.isControlCmd() || job.getCmd() == WorkerCommands.DESCRIBE) {
            return false;
        }
        ChannelHandlerContext connection = Inside.connection(job);
        if (connection != null && !connection.channel().isOpen()) {
            return true;
        }
        if (Deadline.hasPassed(job.getPayload().getHeaders(), job.getBegin())) {
            String message = "the deadline (X-Request-Deadline-Ms) passed while the request waited for a worker";
            refuse(job, HttpResponseStatus.GATEWAY_TIMEOUT, "deadline_passed", message);
            return true;
        }
        return false;
    }

    private void watch() {
        if (!isWatched.get() && isWatched.compareAndSet(false, true)) {
            soon.execute(this::look);
        }
    }

    private void look() {
        try {
            if (!isEmpty() && !isServed.test(this)) {
                String message = "no worker serves this model: it was unregistered or scaled to none, or all gave up";
                refuseAll(HttpResponseStatus.SERVICE_UNAVAILABLE, "no_worker", message);
            }
        } finally {
            isWatched.set(false);
            if (!isEmpty()) { // asked only now: who came before saw that it is watched
                watch();
            }
        }
    }

    private static void refuse(Job job, HttpResponseStatus status, String code, String message) {
        ChannelHandlerContext connection = Inside.connection(job);
        if (connection == null) {
            job.sendError(status.code(), message);
            return;
        }
        FullHttpResponse answer = Answer.error(status, code, message);
        if (status.equals(HttpResponseStatus.SERVICE_UNAVAILABLE)) {
            answer.headers().set(HttpHeaderNames.RETRY_AFTER, 1);
        }
        NettyUtils.sendHttpResponse(connection, answer, true);
    }
}
