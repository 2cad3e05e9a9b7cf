package smartbatch.frontend.worker;

import java.lang.invoke.MethodHandles;
import java.util.concurrent.CountDownLatch;
import org.pytorch.serve.wlm.WorkerThread;

/**
 * Stands in for the latch on which WorkerLifeCycle waits until a worker has started. It first lets the threads end that
 * read what the worker's last process printed: the last thing that they do is to report a start that failed, and the
 * start that is under way by then would be taken for it. TorchServe has a second between the two, we have none.
 */
public final class StartLatch extends CountDownLatch {
    /** As long as TorchServe would wait in any case: a process that outlives its worker may keep its output open. */
    private static final long LONGEST_MS = 1000;

    private static final long LOOK_MS = 5;

    public StartLatch(int count) {
        this(count, LONGEST_MS);
    }

    StartLatch(int count, long longestMs) {
        super(count);
        // "W-9000-", of "W-9000-name_1.0": the readers' names are longer where a model's is.
        String own = Thread.currentThread().getName().replaceFirst("^([^-]*-[^-]*-).*", "$1");
        try {
            for (long waitedMs = 0; waitedMs < longestMs && isRead(own); waitedMs += LOOK_MS) {
                Thread.sleep(LOOK_MS);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt(); // scaled down: who waits on this latch learns of it
        }
    }

    private static boolean isRead(String own) {
        Thread[] threads = new Thread[2 * Thread.activeCount()];
        for (int i = Thread.enumerate(threads) - 1; i >= 0; i--) {
            String name = threads[i].getName();
            if (name.startsWith(own) && name.matches(".*-std(out|err)")) {
                return true;
            }
        }
        return false;
    }

    /**
     * Have TorchServe start a worker that has ended at once, where it waits a second. It goes on to wait 1, 2, 3, 5, … s
     * for one that does not become READY.
     *
     * @throws ReflectiveOperationException another build of TorchServe keeps these seconds otherwise.
     */
    public static void restartAtOnce() throws ReflectiveOperationException {
        int[] seconds =
                (int[])
                        MethodHandles.privateLookupIn(WorkerThread.class, MethodHandles.lookup())
                                .findStaticVarHandle(WorkerThread.class, "BACK_OFF", int[].class)
                                .get();
        seconds[1] = 0; // by how many starts in a row it has been; none reads the first
    }
}
