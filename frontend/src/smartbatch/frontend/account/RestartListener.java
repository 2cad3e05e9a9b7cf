package smartbatch.frontend.account;

import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Consumer;
import org.pytorch.serve.wlm.WorkerState;
import org.pytorch.serve.wlm.WorkerStateListener;
import smartbatch.frontend.Frontend;

/**
 * Notes each start of a worker but its first. TorchServe's WorkLoadManager makes one in the place of its own listener,
 * for the workers that it adds together.
 *
 * <p>A worker's thread, which is named after it, is the one that says it has started.
 */
public final class RestartListener extends WorkerStateListener {
    private final Set<String> started = ConcurrentHashMap.newKeySet();
    private final Consumer<String> restarted;

    public RestartListener(CompletableFuture<Integer> future, int count) {
        this(future, count, Frontend.get().ledger()::restarted);
    }

    RestartListener(CompletableFuture<Integer> future, int count, Consumer<String> restarted) {
        super(future, count);
        this.restarted = restarted;
    }

    @Override
    public void notifyChangeState(String versionedName, WorkerState state, Integer status) {
        if (state == WorkerState.WORKER_STARTED && !started.add(Thread.currentThread().getName())) {
            restarted.accept(versionedName);
        }
        super.notifyChangeState(versionedName, state, status);
    }
}
