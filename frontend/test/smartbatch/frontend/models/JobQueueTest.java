package smartbatch.frontend.models;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpVersion;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.Test;
import org.pytorch.serve.job.Job;
import org.pytorch.serve.util.messages.RequestInput;
import org.pytorch.serve.util.messages.WorkerCommands;

public class JobQueueTest {
    private final List<String> told = new ArrayList<>();
    private final List<Runnable> later = new ArrayList<>();
    private boolean isServed = true;
    private final JobQueue queue = new JobQueue(3, asked -> isServed, later::add);

    /** Notes what its client is told. */
    private final class Noted extends Job {
        Noted(WorkerCommands command, Map<String, String> headers) {
            super("m", null, command, new RequestInput("id"));
            getPayload().setHeaders(headers);
        }

        @Override
        public void response(byte[] body, CharSequence type, int status, String phrase, Map<String, String> headers) {
            throw new AssertionError("no worker has answered");
        }

        @Override
        public void sendError(int status, String error) {
            told.add(status + " " + error);
        }

        @Override
        public boolean isOpen() {
            return true;
        }
    }

    private Job patient() {
        return new Noted(WorkerCommands.PREDICT, Map.of());
    }

    private Job late() {
        return new Noted(WorkerCommands.PREDICT, Map.of("x-request-start", "1", "X-REQUEST-DEADLINE-MS", "5"));
    }

    private void runLater() {
        List<Runnable> due = List.copyOf(later);
        later.clear();
        due.forEach(Runnable::run);
    }

    @Test
    public void lateRequestsAreAnsweredAndWorkersGetTheNext() throws InterruptedException {
        Job wanted = patient();
        queue.offer(late());
        queue.offer(late());
        queue.offer(wanted);
        assertSame(wanted, queue.poll(Long.MAX_VALUE, TimeUnit.MILLISECONDS));
        queue.offer(late());
        queue.offer(wanted);
        assertSame(wanted, queue.poll());
        String answer = "504 the deadline (X-Request-Deadline-Ms) passed while the request waited for a worker";
        assertEquals(List.of(answer, answer, answer), told);
    }

    @Test
    public void whoPollsWaitsNoLongerThanHeSaid() throws InterruptedException {
        queue.offer(late());
        assertNull(queue.poll(1, TimeUnit.MILLISECONDS));
        assertNull(queue.poll(0, TimeUnit.MILLISECONDS));
        queue.offer(late());
        assertNull(queue.poll());
        assertEquals(2, told.size());
    }

    @Test
    public void aBatchHoldsNoMoreThanItsWorkerWants() throws InterruptedException {
        queue.handOverAtMost(2);
        for (int i = 0; i < 3; i++) {
            queue.offer(patient());
        }
        assertNotNull(queue.poll(Long.MAX_VALUE, TimeUnit.MILLISECONDS));
        assertNotNull(queue.poll(50, TimeUnit.MILLISECONDS));
        assertNull(queue.poll(50, TimeUnit.MILLISECONDS));
        assertEquals(1, queue.size());
        assertNotNull(queue.poll(Long.MAX_VALUE, TimeUnit.MILLISECONDS)); // the next batch
        queue.offer(patient());
        queue.handOverAtMost(1);
        assertNull(queue.poll(50, TimeUnit.MILLISECONDS));
        queue.handOverAtMost(8);
        assertNotNull(queue.poll(50, TimeUnit.MILLISECONDS));
        assertEquals(List.of(), told);
    }

    @Test
    public void anAnswerSaysHowManyAndItsClientIsNotTold() throws InterruptedException {
        EmbeddedChannel channel = new EmbeddedChannel(new BatchBounds());
        channel.attr(BatchBounds.QUEUE).set(queue);
        for (String limit : List.of("many", "0", "1")) {
            HttpResponse answer = new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK);
            answer.headers().set("X-SmartBatch-Batch-Limit", limit);
            channel.writeOutbound(answer);
            assertEquals(!limit.equals("1"), answer.headers().contains("X-SmartBatch-Batch-Limit"));
        }
        queue.offer(patient());
        queue.offer(patient());
        assertNotNull(queue.poll(Long.MAX_VALUE, TimeUnit.MILLISECONDS));
        assertNull(queue.poll(50, TimeUnit.MILLISECONDS));
    }

    @Test
    public void commandsHaveNoDeadline() {
        Map<String, String> passed = Map.of("X-Request-Start", "1", "X-Request-Deadline-Ms", "5");
        for (WorkerCommands command : List.of(WorkerCommands.DESCRIBE, WorkerCommands.LOAD)) {
            Job job = new Noted(command, passed);
            queue.offer(job);
            assertSame(job, queue.poll());
        }
        assertEquals(List.of(), told);
    }

    @Test
    public void whoWouldWaitForEverIsTold() {
        queue.offer(patient());
        queue.offer(patient());
        assertEquals(1, later.size());
        runLater();
        assertEquals(List.of(), told);
        isServed = false;
        runLater();
        assertEquals(2, told.size());
        assertTrue(told.get(0), told.get(0).startsWith("503 no worker"));
        assertTrue(later.isEmpty()); // nobody waits, so nobody looks
        queue.addFirst(patient()); // a batch whose worker was taken away
        runLater();
        assertEquals(3, told.size());
    }

    @Test
    public void aQueueWhoseOwnerFailsIsLookedAtAgain() {
        JobQueue failing =
                new JobQueue(
                        1,
                        asked -> {
                            throw new IllegalStateException();
                        },
                        later::add);
        failing.offer(patient());
        try {
            runLater();
        } catch (IllegalStateException expected) {
            assertEquals(1, later.size());
        }
    }

    @Test
    public void whatIsPutBackIntoAFullQueueIsRefused() {
        for (int i = 0; i < 3; i++) {
            assertTrue(queue.offer(patient()));
        }
        assertFalse(queue.offer(patient()));
        queue.addFirst(patient());
        assertEquals(List.of("503 too many requests wait for this model"), told);
    }

    @Test
    public void deadlinesCountFromTheStartOrFromTheArrival() {
        long now = System.nanoTime();
        long secondAgo = now - 1_000_000_000L;
        String ahead = String.valueOf(System.currentTimeMillis() / 1000 + 3600);
        String minuteAgo = "t=" + (System.currentTimeMillis() / 1e3 - 60);
        assertFalse(Deadline.hasPassed(Map.of(), 0));
        assertFalse(Deadline.hasPassed(Map.of("X-Request-Start", "1"), secondAgo));
        assertFalse(Deadline.hasPassed(Map.of("X-Request-Deadline-Ms", "5000"), secondAgo));
        assertTrue(Deadline.hasPassed(Map.of("x-request-deadline-ms", " 900 "), secondAgo));
        assertTrue(Deadline.hasPassed(Map.of("X-Request-Deadline-Ms", "900", "X-Request-Start", ahead), secondAgo));
        assertFalse(Deadline.hasPassed(Map.of("X-Request-Deadline-Ms", "5000", "X-Request-Start", ahead), secondAgo));
        assertTrue(Deadline.hasPassed(Map.of("X-Request-Deadline-Ms", "5e4", "X-Request-Start", minuteAgo), now));
        assertFalse(Deadline.hasPassed(Map.of("X-Request-Deadline-Ms", "7e4", "X-Request-Start", minuteAgo), now));
        for (String odd : List.of("", "soon", "-1", "NaN", "Infinity")) {
            assertFalse(odd, Deadline.hasPassed(Map.of("X-Request-Deadline-Ms", odd), secondAgo));
        }
    }
}
