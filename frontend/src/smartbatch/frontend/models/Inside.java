package smartbatch.frontend.models;

import io.netty.channel.ChannelHandlerContext;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.util.Map;
import java.util.concurrent.ConcurrentMap;
import org.pytorch.serve.job.Job;
import org.pytorch.serve.job.RestJob;
import org.pytorch.serve.wlm.Model;

/** The two fields of TorchServe's that we need and no method gives. */
final class Inside {
    private static final VarHandle QUEUES = field(Model.class, "jobsDb", ConcurrentMap.class);
    private static final VarHandle CONNECTION = field(RestJob.class, "ctx", ChannelHandlerContext.class);

    private Inside() {}

    /** Where requests for this version wait; another class than ours where {@link Model} could not be mended. */
    static Object queue(Model model) {
        return ((Map<?, ?>) QUEUES.get(model)).get(Model.DEFAULT_DATA_QUEUE);
    }

    /** Of the client who waits for this job's answer over HTTP; null for gRPC's and a workflow's jobs. */
    static ChannelHandlerContext connection(Job job) {
        return job instanceof RestJob ? (ChannelHandlerContext) CONNECTION.get((RestJob) job) : null;
    }

    private static VarHandle field(Class<?> owner, String name, Class<?> type) {
        try {
            return MethodHandles.privateLookupIn(owner, MethodHandles.lookup()).findVarHandle(owner, name, type);
        } catch (ReflectiveOperationException e) {
            throw new ExceptionInInitializerError(e);
        }
    }
}
