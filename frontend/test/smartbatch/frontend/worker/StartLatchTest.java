package smartbatch.frontend.worker;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.After;
import org.junit.Test;

public class StartLatchTest {
    private static final long LONG_MS = 60_000;

    private final CountDownLatch ended = new CountDownLatch(1);

    @After
    public void end() {
        ended.countDown();
    }

    /** A thread that reads a process's output until the test has it end. */
    private Thread reader(String name) {
        Thread thread =
                new Thread(
                        () -> {
                            try {
                                ended.await();
                            } catch (InterruptedException e) {
                                Thread.currentThread().interrupt();
                            }
                        },
                        name);
        thread.start();
        return thread;
    }

    /** Made by a worker's thread; completed by whether that was interrupted meanwhile. */
    private static CompletableFuture<Boolean> latch(long longestMs, Thread[] worker) {
        CompletableFuture<Boolean> made = new CompletableFuture<>();
        worker[0] =
                new Thread(
                        () -> {
                            assertEquals(1, new StartLatch(1, longestMs).getCount());
                            made.complete(Thread.interrupted());
                        },
                        "W-9000-a_model_with_a_long_na...");
        worker[0].start();
        return made;
    }

    @Test
    public void theReadersOfTheLastProcessEndFirst() throws Exception {
        for (String stream : new String[] {"stdout", "stderr"}) {
            reader("W-9000-a_model_with_a_long_name_1.0-" + stream);
        }
        CompletableFuture<Boolean> made = latch(LONG_MS, new Thread[1]);
        Thread.sleep(50);
        assertFalse(made.isDone());
        ended.countDown();
        assertFalse(made.get(30, TimeUnit.SECONDS));
    }

    @Test
    public void othersAreNotWaitedFor() throws Exception {
        reader("W-9001-a_model_with_a_long_name_1.0-stdout");
        reader("W-90000-a_model_with_a_long_name_1.0-stderr");
        reader("W-9000-a_model_with_a_long_name_1.0");
        assertFalse(latch(LONG_MS, new Thread[1]).get(30, TimeUnit.SECONDS));
    }

    @Test
    public void oneThatGoesOnIsGivenUp() throws Exception {
        reader("W-9000-a_model_with_a_long_name_1.0-stdout");
        assertFalse(latch(20, new Thread[1]).get(30, TimeUnit.SECONDS));
    }

    @Test
    public void aWorkerThatIsScaledDownLearnsOfIt() throws Exception {
        reader("W-9000-a_model_with_a_long_name_1.0-stdout");
        Thread[] worker = new Thread[1];
        CompletableFuture<Boolean> made = latch(LONG_MS, worker);
        Thread.sleep(20);
        worker[0].interrupt();
        assertTrue(made.get(30, TimeUnit.SECONDS));
    }
}
