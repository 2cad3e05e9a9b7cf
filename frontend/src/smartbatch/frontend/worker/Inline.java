package smartbatch.frontend.worker;

import java.util.concurrent.CompletableFuture;

/**
 * Stands in for {@link CompletableFuture#runAsync(Runnable)} in WorkerThread, which hands each batch to a pool's thread
 * only to wait for it: two thread changes a batch. Here the worker's own thread sends it.
 */
public final class Inline {
    private Inline() {}

    /** Run now, on this thread. */
    public static CompletableFuture<Void> runAsync(Runnable task) {
        task.run();
        return CompletableFuture.completedFuture(null);
    }
}
