package smartbatch.frontend.operations;

import io.netty.channel.Channel;
import io.netty.channel.ServerChannel;
import io.netty.channel.group.ChannelGroupFuture;
import io.netty.channel.group.DefaultChannelGroup;
import io.netty.util.concurrent.EventExecutor;
import java.util.concurrent.locks.LockSupport;
import smartbatch.frontend.Frontend;

/**
 * Stands in for the group in which TorchServe's ServerGroups keeps its listening sockets.
 *
 * <p>TorchServe's main thread ends the whole server once the inference port is closed. While the server drains it waits
 * here instead; the signal that ends the process comes on another thread, and finds everything as it was.
 */
public final class Listeners extends DefaultChannelGroup {
    private final Thread maker = Thread.currentThread();

    public Listeners(EventExecutor executor) {
        super(executor);
    }

    @Override
    public boolean add(Channel listener) {
        Frontend.get().drain().listeners.add((ServerChannel) listener);
        return super.add(listener);
    }

    @Override
    public ChannelGroupFuture close() {
        while (Thread.currentThread() == maker && Frontend.get().drain().isDraining()) {
            LockSupport.park(this);
        }
        return super.close();
    }
}
