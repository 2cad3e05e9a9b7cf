package smartbatch.frontend.worker;

import io.netty.channel.Channel;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.util.ArrayList;

/**
 * Stands in for the list in which WorkerThread keeps the connections to its worker, so that it does not wait until a
 * batch is sent: it waits for the reply next, and learns from that, or from the connection's end, whether it was.
 *
 * @param <T> Channel; WorkerThread's other lists hold other things, and are as any list.
 */
public final class WorkerChannels<T> extends ArrayList<T> {
    private static final long serialVersionUID = 1L;

    public WorkerChannels() {}

    public WorkerChannels(int capacity) {
        super(capacity);
    }

    @Override
    @SuppressWarnings("unchecked")
    public boolean add(T item) {
        return super.add(item instanceof Channel ? (T) unwaited((Channel) item) : item);
    }

    /** The same channel, whose writeAndFlush is done as soon as it is asked for. */
    private static Channel unwaited(Channel channel) {
        return (Channel)
                Proxy.newProxyInstance(
                        Channel.class.getClassLoader(),
                        new Class<?>[] {Channel.class},
                        (proxy, method, arguments) -> {
                            try {
                                Object result = method.invoke(channel, arguments);
                                return method.getName().equals("writeAndFlush") ? channel.newSucceededFuture() : result;
                            } catch (InvocationTargetException e) {
                                throw e.getCause();
                            }
                        });
    }
}
