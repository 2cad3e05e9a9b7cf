package smartbatch.frontend.models;

import java.util.concurrent.ExecutionException;
import org.pytorch.serve.job.Job;
import org.pytorch.serve.util.messages.BaseModelRequest;
import org.pytorch.serve.util.messages.ModelInferenceRequest;
import org.pytorch.serve.wlm.BatchAggregator;
import org.pytorch.serve.wlm.Model;
import org.pytorch.serve.wlm.WorkerState;

/**
 * Stands in for what holds a worker's batch, and puts the requests back whose worker has gone through no fault of
 * theirs: it ended while its batch was still being gathered, where TorchServe forgets them and their clients wait for
 * ever; or it was taken away, where TorchServe may put them back and answer them as well.
 *
 * <p>Those that were with a worker which died are told so: one of them may be why.
 */
public final class Batches extends BatchAggregator {
    private volatile boolean isTakenAway;

    public Batches(Model model) {
        super(model);
    }

    @Override
    public void pollBatch(String worker, WorkerState state) throws InterruptedException, ExecutionException {
        try {
            super.pollBatch(worker, state);
        } catch (InterruptedException e) {
            putBack();
            throw e;
        }
    }

    @Override
    public void shutdown() {
        isTakenAway = true;
    }

    /** Called with no message by whoever takes the worker away; its own thread, which he has interrupted, sees to it. */
    @Override
    public void sendError(BaseModelRequest message, String error, int status) {
        if (isTakenAway && message instanceof ModelInferenceRequest) {
            putBack();
        } else if (message != null) {
            super.sendError(message, error, status);
        }
    }

    private void putBack() {
        Job[] batch = jobs.values().toArray(new Job[0]);
        jobs.clear();
        for (int i = batch.length - 1; i >= 0; i--) {
            model.addFirst(batch[i]);
        }
    }
}
