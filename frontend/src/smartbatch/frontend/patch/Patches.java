package smartbatch.frontend.patch;

import java.io.IOException;
import java.io.InputStream;
import java.lang.invoke.MethodHandles;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.UnaryOperator;
import smartbatch.frontend.access.GrpcJob;
import smartbatch.frontend.account.RestartListener;
import smartbatch.frontend.http.RequestIds;
import smartbatch.frontend.models.Batches;
import smartbatch.frontend.models.JobQueues;
import smartbatch.frontend.operations.Listeners;
import smartbatch.frontend.worker.Inline;
import smartbatch.frontend.worker.StartLatch;
import smartbatch.frontend.worker.WorkerChannels;

/**
 * Puts classes of ours, or TorchServe's with calls pointed elsewhere, in the place of TorchServe's own.
 *
 * <p>A class that nobody has loaded yet can be defined by us: Java's lookup of a class beside it, in the same package
 * and loader, may do so. That needs no agent, so a jar that is missing leaves a server that starts. Only bytes whose
 * SHA-256 we know are replaced.
 */
public final class Patches {
    /** What {@link #apply} says of a class that is ours now. */
    public static final String MENDED = "mended";

    /** Without this one, a worker that has ended is not to be started again at once. */
    public static final String LIFE_CYCLE = "org.pytorch.serve.wlm.WorkerLifeCycle";

    /**
     * One class to mend.
     *
     * @param name with slashes.
     * @param sha256 of the bytes that the patch was made for, in hexadecimal.
     * @param beside a class of the same package that may be loaded by now.
     * @param change to what TorchServe's bytes refer to; null where the jar has a class of ours.
     */
    record Patch(String name, String sha256, String beside, UnaryOperator<ConstantPool> change) {}

    private static final List<Patch> ALL =
            List.of(
                    new Patch(
                            "org/pytorch/serve/ServerInitializer",
                            "096cdc16ec94359c5bafd0fddf4443e3d9a8c7656863d0b57bf1586fd2f8f700",
                            "org.pytorch.serve.ModelServer",
                            null),
                    new Patch(
                            "org/pytorch/serve/util/codec/ModelRequestEncoder",
                            "beae72a0b0330c27af0cff13f34ee3912a339a8208d890a104de97eaf263fc3a",
                            "org.pytorch.serve.util.codec.CodecUtils",
                            null),
                    new Patch(
                            "org/pytorch/serve/util/messages/InputParameter",
                            "aeafcc9ae215e5535a986a6b2c0e5d6b9fe53bcec0499f16d38d17197fa8a2d9",
                            "org.pytorch.serve.util.messages.WorkerCommands",
                            null),
                    new Patch(
                            "org/pytorch/serve/wlm/WorkerThread",
                            "5292f5b79ac1ec509876cd997e2605848fd79f0b15b24ebd1a96c9c6b035ffd6",
                            "org.pytorch.serve.wlm.WorkerState",
                            pool ->
                                    pool.redirectStatic(
                                                    "java/util/concurrent/CompletableFuture", "runAsync", Inline.class)
                                            .construct("java/util/ArrayList", WorkerChannels.class)),
                    new Patch(
                            LIFE_CYCLE.replace('.', '/'),
                            "e5dd443a881d1b221ab6728a069fe58c4ae166b5813ffc389d162f6bdef36383",
                            "org.pytorch.serve.wlm.WorkerState",
                            pool -> pool.construct("java/util/concurrent/CountDownLatch", StartLatch.class)),
                    new Patch(
                            "org/pytorch/serve/http/Session",
                            "08cab9ac58d796c7a9553efc84e485efd299a7d75f00860395dbdc2762613181",
                            "org.pytorch.serve.http.StatusResponse",
                            pool -> pool.redirectStatic("java/util/UUID", "randomUUID", RequestIds.class)),
                    new Patch(
                            "org/pytorch/serve/wlm/WorkLoadManager",
                            "d8078b60dcae76ca80482b1db01510c5babc45e5af88f4cff1b1e18f0e322c74",
                            "org.pytorch.serve.wlm.WorkerState",
                            pool ->
                                    pool.construct("org/pytorch/serve/wlm/WorkerStateListener", RestartListener.class)
                                            .construct("org/pytorch/serve/wlm/BatchAggregator", Batches.class)),
                    new Patch(
                            "org/pytorch/serve/util/ServerGroups",
                            "8c4327920bcaae8e5f6a9f9b6ec5c028515e95752140a4c74e43ebe29db3ef65",
                            "org.pytorch.serve.util.ConfigManager",
                            pool -> pool.construct("io/netty/channel/group/DefaultChannelGroup", Listeners.class)),
                    new Patch(
                            "org/pytorch/serve/wlm/Model",
                            "7c5523f1fe77fe79aa32665469e17725e70518692abcf4987989ef72f10d4cff",
                            "org.pytorch.serve.wlm.WorkerState",
                            pool -> pool.construct("java/util/concurrent/ConcurrentHashMap", JobQueues.class)),
                    new Patch(
                            "org/pytorch/serve/grpcimpl/GRPCServiceFactory",
                            "861b6fe0f5e128fd28731d85ec35aa9190809d1c343b417024201ca4fab5da5f",
                            "org.pytorch.serve.grpcimpl.GRPCInterceptor",
                            null),
                    new Patch(
                            "org/pytorch/serve/grpcimpl/InferenceImpl",
                            "8b85e06f700eeb9dc6e595307bcaf38c67209883a08dcd09039f72f1462e36cc",
                            "org.pytorch.serve.grpcimpl.GRPCInterceptor",
                            pool -> pool.construct("org/pytorch/serve/job/GRPCJob", GrpcJob.class)));

    private final ClassLoader loader;

    /** @param loader TorchServe's, which is ours too. */
    public Patches(ClassLoader loader) {
        this.loader = loader;
    }

    /** Mend every class of the table; returns {@link #MENDED} or the reason against it for each. */
    public Map<String, String> apply() {
        Map<String, String> outcomes = new TreeMap<>();
        for (Patch patch : ALL) {
            outcomes.put(patch.name().replace('/', '.'), outcome(patch));
        }
        return outcomes;
    }


    private String outcome(Patch patch) {
        try {
            byte[] original = resource(patch.name() + ".class");
            String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(original));
            if (!digest.equals(patch.sha256())) {
                return "another build of TorchServe, its SHA-256 is " + digest;
            }
            byte[] ours =
                    patch.change() == null
                            ? resource("mended/" + patch.name() + ".class")
                            : patch.change().apply(new ConstantPool(original)).toByteArray();
            Class<?> beside = Class.forName(patch.beside(), false, loader);
            MethodHandles.privateLookupIn(beside, MethodHandles.lookup()).defineClass(ours);
            return MENDED;
        } catch (IOException | NoSuchAlgorithmException | ReflectiveOperationException | LinkageError e) {
            return e.toString();
        }
    }

    private byte[] resource(String path) throws IOException {
        try (InputStream in = loader.getResourceAsStream(path)) {
            if (in == null) {
                throw new IOException("no " + path + " on the class path");
            }
            return in.readAllBytes();
        }
    }
}
