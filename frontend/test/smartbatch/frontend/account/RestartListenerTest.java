package smartbatch.frontend.account;

import static org.junit.Assert.assertEquals;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.junit.Test;
import org.pytorch.serve.wlm.WorkerState;

public class RestartListenerTest {
    private final List<String> restarted = new ArrayList<>();
    private final CompletableFuture<Integer> ready = new CompletableFuture<>();
    private final RestartListener listener = new RestartListener(ready, 2, restarted::add);

    /** As WorkerThread does: on a thread that bears its worker's name. */
    private void tell(String worker, WorkerState state) throws InterruptedException {
        Thread thread = new Thread(() -> listener.notifyChangeState("m_1.0", state, 200), worker);
        thread.start();
        thread.join();
    }

    @Test
    public void everyStartButAWorkersFirstIsARestart() throws Exception {
        tell("W-9000-m_1.0", WorkerState.WORKER_STARTED);
        tell("W-9000-m_1.0", WorkerState.WORKER_STOPPED);
        tell("W-9001-m_1.0", WorkerState.WORKER_STARTED);
        assertEquals(List.of(), restarted);
        tell("W-9000-m_1.0", WorkerState.WORKER_STARTED);
        tell("W-9000-m_1.0", WorkerState.WORKER_STOPPED);
        tell("W-9000-m_1.0", WorkerState.WORKER_STARTED);
        assertEquals(List.of("m_1.0", "m_1.0"), restarted);
    }

    @Test
    public void registeringStillHearsWhenAllAreReady() throws Exception {
        tell("W-9000-m_1.0", WorkerState.WORKER_MODEL_LOADED);
        assertEquals(false, ready.isDone());
        tell("W-9001-m_1.0", WorkerState.WORKER_MODEL_LOADED);
        assertEquals((Integer) 200, ready.get());
    }
}
